"""Progress: a bar on a terminal, occasional lines in a pipe or a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Hear = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and the total."""
EVERY = 10.0
"""Seconds between two lines."""


def quiet() -> bool:
    """Whether no progress is shown: `--quiet`, or REMORA_QUIET=1, which child processes have as well."""
    return os.environ.get("REMORA_QUIET", "") not in ("", "0")


def _nothing(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


@contextmanager
def bars(console: Console, *columns: ProgressColumn, verb: str = "") -> Iterator[Hear]:
    """A function to report progress to: one bar per item, removed at the end; or lines that begin with `verb`."""
    if quiet() or not console.is_terminal:
        yield _nothing if quiet() else lines(console, verb)
        return
    with Progress(*columns, console=console, transient=True) as shown:
        tasks: dict[str, TaskID] = {}

        def hear(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=total)
            shown.update(tasks[what], completed=done)

        yield hear


def counting(console: Console) -> AbstractContextManager[Hear]:
    """Bars that count items."""
    return bars(
        console, TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )


def reading(console: Console, verb: str) -> AbstractContextManager[Hear]:
    """Bars that count bytes."""
    columns = (BarColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return bars(console, TextColumn(f"{verb} {{task.description}}", markup=False), *columns, verb=verb)


def lines(console: Console, verb: str = "", clock: Callable[[], float] = time.monotonic) -> Hear:
    """Prints `indexing mine.json: 40%`, for items that take at least EVERY seconds."""
    last: dict[str, float] = {}

    def hear(what: str, done: int, total: int) -> None:
        now = clock()
        if now - last.setdefault(what, now) >= EVERY:
            last[what] = now
            console.print(f"{verb} {what}: {done / max(1, total):.0%}".strip(), highlight=False, soft_wrap=True)

    return hear


@contextmanager
def counted(console: Console) -> Iterator[Hear]:
    """A progress bar per benchmark on a terminal, occasional lines elsewhere."""
    if quiet() or not console.is_terminal:
        yield _nothing if quiet() else _tenths(console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def hear(name: str, done: int, of: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=of)
            progress.update(tasks[name], completed=done)

        yield hear


def _tenths(console: Console) -> Hear:
    told: dict[str, int] = {}

    def hear(name: str, done: int, of: int) -> None:
        if done == of or done >= told.get(name, -of) + of // 10:
            told[name] = done
            console.print(f"{name}: {done:,} of {of:,} answers", highlight=False)

    return hear
