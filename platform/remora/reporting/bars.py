"""Progress: a bar on a terminal, occasional lines in a pipe or a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from remora.processes import meanwhile
from remora.training.meter import duration

Hear = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and the total; 0 if that is not known."""
FIRST, EVERY = 2.0, 10.0
"""Seconds before the first line, and between two."""


def quiet() -> bool:
    """Whether no progress is shown: `--quiet`, or REMORA_QUIET=1, which child processes have as well."""
    return os.environ.get("REMORA_QUIET", "") not in ("", "0")


def _nothing(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


class Speed(ProgressColumn):
    """`1,234/s`, or `12.3 MB/s`."""

    def __init__(self, bytes: bool) -> None:
        super().__init__()
        self.bytes = bytes

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate(speed, self.bytes) if speed else "", style="progress.data.speed")


def rate(speed: float, bytes: bool = False) -> str:
    """So many items, or bytes, a second."""
    if bytes:
        return f"{speed / 1e6:,.1f} MB/s"
    return f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s"


@contextmanager
def bars(console: Console, verb: str = "", bytes: bool = False, transient: bool = True) -> Iterator[Hear]:
    """A function to report progress to: a bar per item with rate and time left; or lines, in a pipe or a file."""
    if quiet() or not console.is_terminal:
        yield _nothing if quiet() else lines(console, verb, bytes)
        return
    named = TextColumn(f"{verb} {{task.description}}".strip(), markup=False)
    done = () if bytes else (MofNCompleteColumn(),)
    columns = (named, BarColumn(), *done, Speed(bytes), TimeRemainingColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=transient) as shown:
        tasks: dict[str, TaskID] = {}

        def hear(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=total or None)
            shown.update(tasks[what], completed=done, total=total or None)

        yield hear


def counting(console: Console, verb: str = "") -> AbstractContextManager[Hear]:
    """Bars that count items."""
    return bars(console, verb)


def reading(console: Console, verb: str) -> AbstractContextManager[Hear]:
    """Bars that count bytes."""
    return bars(console, verb, bytes=True)


def lines(console: Console, verb: str = "", bytes: bool = False, clock: Callable[[], float] = time.monotonic) -> Hear:
    """Prints `indexing mine.json: 40%, 12.3 MB/s, 0:15 left`, for items that take at least FIRST seconds."""
    began: dict[str, tuple[float, int]] = {}
    last: dict[str, float] = {}

    def hear(what: str, done: int, total: int) -> None:
        now = clock()
        start, before = began.setdefault(what, (now, done))
        if now - last.setdefault(what, now - (EVERY - FIRST)) < EVERY:
            return
        last[what] = now
        speed = (done - before) / (now - start) if now > start else 0.0
        far = f"{done / total:.0%}" if total else f"{done / 1e6:,.0f} MB" if bytes else f"{done:,}"
        said = [far, *([rate(speed, bytes)] if speed else [])]
        if speed and total > done:
            said.append(f"{duration((total - done) / speed)} left")
        console.print(f"{verb} {what}: {', '.join(said)}".strip(), highlight=False, soft_wrap=True)

    return hear


@contextmanager
def counted(console: Console) -> Iterator[Hear]:
    """A progress bar per benchmark on a terminal, which stays; in a pipe or a file a line a tenth."""
    if quiet() or console.is_terminal:
        with bars(console, transient=False) as hear:
            yield hear
        return
    yield _tenths(console)


def _tenths(console: Console, clock: Callable[[], float] = time.monotonic) -> Hear:
    told: dict[str, int] = {}
    began: dict[str, tuple[float, int]] = {}

    def hear(name: str, done: int, of: int) -> None:
        now = clock()
        start, before = began.setdefault(name, (now, done))
        if done == of or done >= told.get(name, -of) + of // 10:
            told[name] = done
            speed = (done - before) / (now - start) if now > start else 0.0
            left = f", {rate(speed)}, {duration((of - done) / speed)} left" if speed and done < of else ""
            console.print(f"{name}: {done:,} of {of:,} answers{left}", highlight=False)

    return hear


@contextmanager
def growing(console: Console, verb: str, folder: Path) -> Iterator[None]:
    """Progress of what is being written to a folder whose size is not known before: bytes so far, rate, time."""
    with (
        reading(console, verb) as hear,
        meanwhile(lambda: hear(folder.name, _size(folder), 0), 0.5, "growing"),
    ):
        yield


def _size(folder: Path) -> int:
    """Bytes in a folder, and in the hidden one beside it that becomes it (files.scratch)."""
    total = 0
    bases = [folder, *folder.parent.glob(f".{folder.name}.*")]
    for path in (p for base in bases for p in (base, *base.rglob("*"))):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
