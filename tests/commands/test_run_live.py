"""The live view of a command in a child: however the child ends, its parent prints a line about it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from remora.commands import run
from remora.commands.options import Workplace
from remora.errors import WorkerError

ENDED = "(while kill -0 $$ 2>/dev/null; do :; done; sleep 0.5; echo 'remora: the head died; next: x') & "


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (ENDED + "echo '*** Stack trace'; kill -ABRT $$", "the head died; next: x"),
        (ENDED + "echo 'Failed to connect to GCS'; exit 1", "the head died; next: x"),
        ("echo working; kill -KILL $$", "ended by SIGKILL; its last line: working"),
    ],
)
def test_last_words_come_from_who_outlives_the_child(script, said, tmp_path, monkeypatch):
    """Ray's C++ ends a process without a line of ours; a shell that outlives it has one, a moment later."""
    monkeypatch.setattr(run, "remora_command", lambda *_: ["bash", "-c", script])
    with pytest.raises(WorkerError) as e:
        run.live(Workplace(tmp_path), "train", tmp_path / "x.yaml", "single", ["x"], Console(file=io.StringIO()))
    assert str(e.value).startswith(f"{said} (log: {tmp_path}/logs/train-")


def test_ctrl_c_says_what_it_does_and_twice_stops_at_once(tmp_path, monkeypatch, capsys):
    stopped = []

    def stop(self, grace=20.0):
        stopped.append(grace)
        if len(stopped) == 1:
            raise KeyboardInterrupt  # the second one, while the child ends
        self.process.kill()
        self.process.wait()

    def draw(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "remora_command", lambda *_: ["sleep", "600"])
    monkeypatch.setattr(run.Child, "stop", stop)
    monkeypatch.setattr(run, "draw", draw)
    with pytest.raises(KeyboardInterrupt):
        run.live(Workplace(tmp_path), "train", tmp_path / "x.yaml", "single", ["x"], Console(file=io.StringIO()))
    assert stopped == [20.0, 0, 20.0]
    assert capsys.readouterr().out.startswith("stopping; what was finished is kept, and a stage goes on from its last")
