"""`remora logs`, `stop` and `resume` on commands that work, were stopped, failed and were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from remora.cli import main
from remora.errors import DataError, SpecError
from remora.pipeline import command_records
from remora.pipeline.command_records import at_work, find_command, records
from remora.pipeline.variant import status_file
from remora.training import journal
from support.waiting import until

WORKS = """
import sys, time
from pathlib import Path
from remora.pipeline.command_records import at_work
runs = Path(sys.argv[1])
with at_work(runs, "train", "single", "it", ["train", "it.yaml"]):
    print("at work", flush=True)
    while True:
        time.sleep(0.05)
"""


@pytest.fixture
def working(tmp_path: Path):
    """A command at work in tmp_path, in another process."""
    process = subprocess.Popen([sys.executable, "-c", WORKS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "at work\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[list[str], str]]:
    def told(*given: str) -> tuple[list[str], str]:
        error = ""
        try:
            main([*given, "--runs", str(tmp_path)])
        except SystemExit as e:
            error = str(e.code)
        return capsys.readouterr().out.splitlines(), error

    return told


def test_a_command_is_listed_stopped_and_given_again(tmp_path: Path, working, say, monkeypatch) -> None:
    (line,), _ = say("logs")
    assert line.startswith("train-it-") and ": running, since " in line and f"process {working.pid} on " in line
    assert json.loads("\n".join(say("logs", "--json")[0]))[0]["state"] == "running"
    assert "no command was given" in say("resume", "it")[1]  # none that does not work
    lines, error = say("stop")
    assert not error and lines[0] == "asked train it to stop; what was finished is kept"
    assert lines[1] == "train it has stopped; next: remora resume it"
    assert working.wait(60) != 0
    (record,) = records(tmp_path)
    assert (record.state(tmp_path), record.how) == ("stopped", "stopped") and record.ended
    assert "no command works" in say("stop")[1]

    # Its spec is looked for where it was.
    assert "it.yaml is not there any more" in say("resume")[1]
    monkeypatch.chdir(tmp_path)
    Path("it.yaml").write_text("nothing: of use\n")
    given = []
    monkeypatch.setattr("remora.commands.run.train", lambda options: given.append(options))
    assert say("resume", "it") == ([f"remora train it.yaml --runs {tmp_path}"], "")
    assert (str(given[0].spec), given[0].runs) == ("it.yaml", tmp_path)


def test_one_that_was_killed_says_so(tmp_path: Path, working, say) -> None:
    os.kill(working.pid, signal.SIGKILL)
    working.wait()
    (line,), _ = say("logs")
    assert ": killed, since " in line


def test_what_happened_is_told_while_it_happens_and_afterwards(tmp_path: Path, say) -> None:
    status = status_file(tmp_path, "single", "it")
    status.parent.mkdir(parents=True)
    with pytest.raises(SpecError), at_work(tmp_path, "train", "single", "it", ["train", "it.yaml"]):
        journal.append(status, "stage", run="finetune-0123456789ab", stage="finetune", state="training")
        raise SpecError("it does not fit\nmore")
    lines, _ = say("logs", "it")
    assert lines[0] == "it: finetune begins (finetune-0123456789ab)"
    assert ": failed: it does not fit, since " in lines[1] and len(lines) == 2
    with at_work(tmp_path, "train", "single", "it", ["train", "it.yaml"]):
        pass
    assert find_command(tmp_path, "it").state(tmp_path) == "finished"
    assert "train it has finished; next: remora logs it" in say("resume", "it")[1]


def test_a_name_that_is_none_is_answered_by_those_that_are(tmp_path: Path, say) -> None:
    assert say("logs")[0] == [f"no command was given in {tmp_path}; next: remora train SPEC"]
    with at_work(tmp_path, "search", "demo", "demo", ["search", "demo.yaml"]):
        assert "no command was given of the name 'dmeo'; did you mean 'demo'?" in say("logs", "dmeo")[1]
        with (
            at_work(tmp_path, "train", "single", "other", ["train", "x.yaml"]),
            pytest.raises(DataError, match=r"2 commands work in .*; give the name of one: search-demo-"),
        ):
            find_command(tmp_path, None, running=True)


def test_old_records_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_records, "KEPT", 2)
    for name in ("a", "b", "c", "d"):
        with at_work(tmp_path, "train", "single", name, ["train", "x.yaml"]):
            pass
    assert [r.name for r in records(tmp_path)] == ["b", "c", "d"]  # and the next one forgets the first of these


def test_a_record_that_is_torn_is_left_out(tmp_path: Path) -> None:
    with at_work(tmp_path, "train", "single", "a", ["train", "x.yaml"]):
        pass
    (file,) = tmp_path.glob("commands/*/command.json")
    file.write_text("{")
    assert until("nothing", lambda: not records(tmp_path))


def test_a_search_is_asked_to_stop_before_it_has_a_folder(tmp_path: Path, say) -> None:
    search = [sys.executable, "-c", WORKS.replace('"train", "single"', '"search", "it"'), str(tmp_path)]
    with subprocess.Popen(search, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout and process.stdout.readline() == "at work\n"
        lines, error = say("stop", "it")
        process.kill()
    assert not error and lines[1].startswith("search it has stopped")
    assert find_command(tmp_path, "it").state(tmp_path) == "stopped"
    assert json.loads("\n".join(say("logs", "it", "--json")[0]))["state"] == "stopped"
