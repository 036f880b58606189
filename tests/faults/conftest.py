"""The scorecards: the cost of each fault, printed at the end and written to the --scorecard file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from scene import Driver, Stage

from support.machine import cpu_name

HEADS = {
    "scorecard": ("fault", "what happened", "steps lost", "seconds to the next step"),
    "serving scorecard": ("fault", "what happened", "requests", "failed", "longest answer", "back after", "memory"),
}
"""By the mark `<!-- … -->` before each in the file: the words of its head; the first two columns are text."""
ROWS: dict[str, list[tuple[str, ...]]] = {name: [] for name in HEADS}
END = "<!-- end -->"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scorecard", type=Path, help="a Markdown file whose scorecards are replaced by this run's")
    parser.addoption("--overload-seconds", type=float, default=20, help="length of the endpoint's overload")


@pytest.fixture
def card():
    """Add a row: fault, what happened, steps lost, seconds to recover."""

    def add(fault: str, happened: str, lost: int | None, seconds: float | None) -> None:
        row = ("" if lost is None else str(lost), "" if seconds is None else f"{seconds:.1f}")
        ROWS["scorecard"].append((fault, happened, *row))

    return add


@pytest.fixture
def serving_card():
    """Add a row: fault, what happened, the load beside it, seconds until all was as before, memory before and after.
    Times in seconds, memory in bytes."""

    def add(
        fault: str,
        happened: str,
        load: Any,
        back: float,
        before: float,
        after: float,
        longest: float | None = None,
        asked: int | None = None,
    ) -> None:
        memory = f"{before / 2**20:,.0f} → {after / 2**20:,.0f} MB"
        seconds = load.longest() if longest is None else longest
        count = len(load.done) if asked is None else asked
        failed = sum(load.failed().values())
        row = (f"{count:,}", f"{failed}", f"{seconds:.1f} s", f"{back:.1f} s", memory)
        ROWS["serving scorecard"].append((fault, happened, *row))

    return add


@pytest.fixture
def overload_seconds(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--overload-seconds"))


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="session")
def driver(root):
    made = Driver(root / "runs")
    yield made
    made.stop()


@pytest.fixture(scope="session")
def calm(driver, root):
    """The losses of a run without a fault."""
    stage = Stage(root, "calm")
    driver.trains(stage)
    assert driver.says() == "trained", driver.log.read_text()[-3000:]
    return stage.losses()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    file = config.getoption("--scorecard", default=None)
    for name, rows in ROWS.items():
        if not rows:
            continue
        rule = ("---", "---", *("---:" for _ in HEADS[name][2:]))
        lines = ["| " + " | ".join(row) + " |" for row in (HEADS[name], rule, *rows)]
        terminalreporter.write_line("\n".join(lines))
        if file:
            begin = f"<!-- {name} -->"
            before, _, rest = file.read_text().partition(begin)
            machine = f"{os.cpu_count()} cores, {cpu_name()}, {time.strftime('%Y-%m-%d')}"
            table = "\n".join([begin, "", f"One run, {machine}:", "", *lines, "", END])
            file.write_text(before + table + rest.partition(END)[2])
