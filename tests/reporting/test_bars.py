"""A pipe gets occasional lines about what takes long, and none about what does not."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import BarColumn, TextColumn

from remora.reporting.bars import EVERY, bars, counted, lines
from remora.reporting.columns import literal
from remora.reporting.following import plain_progress


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


def test_quiet_shows_no_progress(monkeypatch, tmp_path, capsys) -> None:
    """Neither bars nor lines; what the command found is printed as ever."""
    monkeypatch.setenv("REMORA_QUIET", "1")
    out = io.StringIO()
    for terminal in (True, False):
        console = Console(file=out, force_terminal=terminal, width=80)
        with bars(console, TextColumn("{task.description}")) as hear, counted(console) as asked:
            hear("a.json", 1, 2)
            asked("gqa", 2, 2)
    with plain_progress(tmp_path, "single", ["x"]):
        pass
    assert out.getvalue() == "" and capsys.readouterr().out == ""
    literal().print("kept")
    assert capsys.readouterr().out == "kept\n"
