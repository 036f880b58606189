"""What people see while a search goes on, on a terminal and in a pipe; no Ray."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from remora.files import lines
from remora.pipeline.search.board import Decided, Reached, write
from remora.reporting import following
from remora.reporting.happenings import Happenings
from remora.reporting.progress import SearchProgress
from remora.training import journal

NAMES = ["base", "share"]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Each poll finds one more event; False at the end. Nothing sleeps between polls."""
    monkeypatch.setattr(following, "time", SimpleNamespace(sleep=lambda _: None, monotonic=count().__next__))
    (tmp_path / "status/demo").mkdir(parents=True)
    work = tmp_path / "stages/align-01.work/journal.jsonl"
    work.parent.mkdir(parents=True)

    def happens() -> Iterator[bool]:
        for name in NAMES:
            file = tmp_path / "status/demo" / f"{name}.jsonl"
            journal.append(
                file, "stage", run="align-01", stage="align", state="training" if name == "base" else "waiting"
            )
            yield True
        journal.append(work, "started", steps=40)
        journal.append(work, "step", step=6, loss=2.125)
        journal.append(work, "noted", text="checkpoint 5 was torn")
        yield True
        for name in NAMES:
            file = tmp_path / "status/demo" / f"{name}.jsonl"
            journal.append(file, "scored", benchmark="pope", accuracy=0.875)
        yield False

    return happens()


def drawn(runs: Path, search: Iterator[bool], terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    following.draw(SearchProgress(runs, "demo", NAMES, 0.0), "a search", console, search.__next__)
    return out.getvalue()


def test_a_reader_that_has_gone_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    file = os.fdopen(writer, "w")
    write = following._flushed(file)
    write("a line\n")
    write("another\n")
    with pytest.raises(BrokenPipeError):
        file.close()


def test_a_terminal_shows_a_table_that_ends_with_what_came_last(tmp_path, search) -> None:
    shown = drawn(tmp_path, search, terminal=True)
    last = shown[shown.rindex("a search") :]
    assert all(name in last for name in NAMES)
    assert "7/40" in last and "2.125" in last and "0.875" in last
    assert "7/40" not in shown[: shown.rindex("a search")].split("a search")[1]  # it was not there from the start
    assert shown.count("note: align-01: checkpoint 5 was torn") == 1  # once for both that share the stage run


def test_a_pipe_gets_a_line_of_each_thing_and_note(tmp_path, search) -> None:
    said = drawn(tmp_path, search, terminal=False).splitlines()
    assert sorted(said[:-1]) == [
        "base: align begins (align-01)",
        "base: pope 0.875",
        "note: align-01: checkpoint 5 was torn",
        "share: pope 0.875",
    ]
    assert said[-1] == "base: align 7/40, loss 2.125" and not {"\x1b", "\r"} & set("".join(said))


def test_each_thing_is_told_once_in_its_order(tmp_path) -> None:
    """Also what lasts for less than a look; a decision with the value it was made by; what many reuse in one line."""
    told, rungs = Happenings(tmp_path, "demo", 10.0), tmp_path / "searches/demo/rungs.jsonl"
    names = [f"v{i}" for i in range(5)]
    for folder in ("status/demo", "searches/demo"):
        (tmp_path / folder).mkdir(parents=True)

    def say(name: str, event: str, **fields: object) -> None:
        journal.append(tmp_path / "status/demo" / f"{name}.jsonl", event, **fields)

    stage = {"run": "align-01", "stage": "align"}
    lines.append(tmp_path / "status/demo/v0.jsonl", [{"event": "evaluating", "time": 1.0}])  # of an earlier command
    for state in ("waiting", "training", "trained"):
        say("v0", "stage", **stage, state=state)
    for name in names[1:]:
        say(name, "stage", **stage, state="reused")
    assert list(told.new(names)) == [
        "v0: align begins (align-01)",
        "v0: align trained (align-01)",
        "v1, v2, v3 and 1 more: align-01 reused",
    ]
    assert list(told.new(names)) == []
    at = ("v0", "finetune-01", "finetune", 0.5)
    write(rungs, [Reached(*at, 5, 50, "loss", 1.25, False), Decided(*at, "pause", "halving", 2, 2)])
    write(rungs, [Decided(*at, "promote", "halving", 2, 3)])
    write(rungs, [Reached(*at[:3], 1.0, 10, 99, "loss", 1.0, False)])
    say("v0", "paused")
    say("v0", "evaluating")
    say("v0", "failed", error="out of memory")
    with rungs.open("a") as file:
        file.write('{"event": "decided"')  # half of a line
    assert list(told.new(names)) == [
        "v0: pauses at 50% of finetune: loss 1.2500, place 2 of 2",
        "v0: goes on at 50% of finetune: loss 1.2500, place 2 of 3",
        "v0: end of finetune: loss 1.0000",
        "v0: measuring",
        "v0: failed: out of memory",
    ]


def test_a_search_that_waits_for_ray_is_not_told_of(tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "status/demo/base.jsonl"
    file.parent.mkdir(parents=True)
    with following.plain_progress(tmp_path, "demo", NAMES):
        journal.append(file, "queued")
    assert capsys.readouterr().out == ""
