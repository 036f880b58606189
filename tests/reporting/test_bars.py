"""A pipe gets occasional lines about what takes long, and none about what does not."""

from __future__ import annotations

import io

from rich.console import Console

from remora.reporting import bars as bars_of
from remora.reporting.bars import bars, counted, growing, lines, rate
from remora.reporting.columns import literal
from remora.reporting.following import plain_progress


def test_a_pipe_gets_lines_of_what_takes_long() -> None:
    """Indexing a large dataset said nothing until its end."""
    out, now = io.StringIO(), [0.0]
    hear = lines(Console(file=out), "indexing", clock=lambda: now[0])
    for second in range(41):
        now[0] = float(second)
        hear("a.json", second * 100, 4000)
    hear("b.json", 1, 0)
    assert out.getvalue().splitlines() == [
        "indexing a.json: 5%, 100/s, 0:38 left",
        "indexing a.json: 30%, 100/s, 0:28 left",
        "indexing a.json: 55%, 100/s, 0:18 left",
        "indexing a.json: 80%, 100/s, 0:08 left",
    ]


def test_bytes_and_what_has_no_known_end() -> None:
    out, now = io.StringIO(), [0.0]
    hear = lines(Console(file=out), "exporting", bytes=True, clock=lambda: now[0])
    for second in range(5):
        now[0] = float(second)
        hear("out", second * 20_000_000, 0)
    assert out.getvalue() == "exporting out: 40 MB, 20.0 MB/s\n"


def test_a_terminal_gets_bars_with_rate_and_time_left_and_a_pipe_none() -> None:
    terminal, pipe = io.StringIO(), io.StringIO()
    for file, is_terminal in ((terminal, True), (pipe, False)):
        with bars(Console(file=file, force_terminal=is_terminal, width=80), "checking") as hear:
            hear("a.json", 1, 2)
    assert "checking a.json" in terminal.getvalue() and "1/2" in terminal.getvalue() and pipe.getvalue() == ""
    assert (rate(1234.5), rate(2.5), rate(12_340_000, bytes=True)) == ("1,234/s", "2.5/s", "12.3 MB/s")


def test_what_grows_is_counted_before_it_has_its_name(tmp_path) -> None:
    out = tmp_path / "out"
    for name, size in ((".out.1a2b", 300), ("out", 20), ("outer", 5000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w").write_bytes(b"x" * size)
    assert bars_of._size(out) == 320
    with growing(Console(file=io.StringIO()), "exporting", out):
        pass


def test_quiet_shows_no_progress(monkeypatch, tmp_path, capsys) -> None:
    """Neither bars nor lines; what the command found is printed as ever."""
    monkeypatch.setenv("REMORA_QUIET", "1")
    out = io.StringIO()
    for terminal in (True, False):
        console = Console(file=out, force_terminal=terminal, width=80)
        with bars(console) as hear, counted(console) as asked:
            hear("a.json", 1, 2)
            asked("gqa", 2, 2)
    with plain_progress(tmp_path, "single", ["x"]):
        pass
    assert out.getvalue() == "" and capsys.readouterr().out == ""
    literal().print("kept")
    assert capsys.readouterr().out == "kept\n"
