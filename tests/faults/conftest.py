"""The scorecard: the cost of each fault, printed at the end and written to the --scorecard file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from scene import Driver, Stage

from support.machine import cpu_name

ROWS: list[tuple[str, str, str, str]] = []
BEGIN, END = "<!-- scorecard -->", "<!-- end -->"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scorecard", type=Path, help="a Markdown file whose scorecard is replaced by this run's")


@pytest.fixture
def card():
    """Add a row: fault, what happened, steps lost, seconds to recover."""

    def add(fault: str, happened: str, lost: int | None, seconds: float | None) -> None:
        ROWS.append((fault, happened, "" if lost is None else str(lost), "" if seconds is None else f"{seconds:.1f}"))

    return add


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
    if not ROWS:
        return
    head = ("fault", "what happened", "steps lost", "seconds to the next step")
    lines = ["| " + " | ".join(row) + " |" for row in (head, ("---", "---", "---:", "---:"), *ROWS)]
    terminalreporter.write_line("\n".join(lines))
    if file := config.getoption("--scorecard", default=None):
        before, _, rest = file.read_text().partition(BEGIN)
        machine = f"{os.cpu_count()} cores, {cpu_name()}, {time.strftime('%Y-%m-%d')}"
        table = "\n".join([BEGIN, "", f"One run, {machine}:", "", *lines, "", END])
        file.write_text(before + table + rest.partition(END)[2])
