"""What people see while a search goes on, on a terminal and in a pipe; no Ray."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from remora.reporting import following
from remora.reporting.progress import SearchProgress
from remora.training import journal

NAMES = ["base", "share"]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Each look at it finds one more thing that happened; False at the end. Nobody sleeps between looks."""
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


def test_a_terminal_shows_a_table_that_ends_with_what_came_last(tmp_path, search) -> None:
    shown = drawn(tmp_path, search, terminal=True)
    last = shown[shown.rindex("a search") :]
    assert all(name in last for name in NAMES)
    assert "7/40" in last and "2.125" in last and "0.875" in last
    assert "7/40" not in shown[: shown.rindex("a search")].split("a search")[1]  # it was not there from the start
    assert shown.count("note: align-01: checkpoint 5 was torn") == 1  # once for both that share the stage run


def test_a_pipe_gets_a_line_of_each_variant_and_note(tmp_path, search) -> None:
    said = drawn(tmp_path, search, terminal=False).splitlines()
    assert said[-2:] == [
        "base: training align-01; pope 0.875, step 7/40, loss 2.125",
        "share: waiting align-01; pope 0.875",
    ]
    assert said.count("note: align-01: checkpoint 5 was torn") == 1 and "\x1b" not in "".join(said)


def test_a_search_that_waits_for_ray_is_not_told_of(tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "status/demo/base.jsonl"
    file.parent.mkdir(parents=True)
    with following.plain_progress(tmp_path, "demo", NAMES):
        journal.append(file, "queued")
    assert capsys.readouterr().out == ""
