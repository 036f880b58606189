"""A pipe gets occasional lines about what takes long, and none about what does not."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import BarColumn, TextColumn

from remora.reporting.bars import EVERY, bars, lines


def test_a_pipe_gets_lines_of_what_takes_long() -> None:
    """Indexing a large dataset said nothing until its end."""
    out, now = io.StringIO(), [0.0]
    hear = lines(Console(file=out), "indexing", lambda: now[0])
    for step in range(41):
        now[0] = step * EVERY / 10
        hear("a.json", step, 40)
    hear("b.json", 1, 0)
    assert out.getvalue().splitlines() == [f"indexing a.json: {p}%" for p in (25, 50, 75, 100)]


def test_a_terminal_gets_bars_and_a_pipe_none() -> None:
    columns = (TextColumn("{task.description}"), BarColumn())
    terminal, pipe = io.StringIO(), io.StringIO()
    for file, is_terminal in ((terminal, True), (pipe, False)):
        with bars(Console(file=file, force_terminal=is_terminal, width=80), *columns) as hear:
            hear("a.json", 1, 2)
    assert "a.json" in terminal.getvalue() and pipe.getvalue() == ""
