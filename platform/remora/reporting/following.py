"""Live progress of a training run or a search: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.live import Live

from remora.reporting.bars import quiet
from remora.reporting.happenings import Happenings
from remora.reporting.live import live_table
from remora.reporting.progress import SearchProgress, VariantProgress
from remora.training.meter import duration

LOOK_EVERY = 0.5
"""Seconds between two looks."""
CHROME = 8
"""Lines of a terminal that are not for rows of the table."""


def draw(progress: SearchProgress, title: str, console: Console, going: Callable[[], bool]) -> None:
    """Redraw the table while `going`, on a terminal in place, elsewhere a line whenever something changes."""
    if quiet():
        while going():
            time.sleep(0.2)
        return
    if not console.is_terminal:
        with _printing(progress, _flushed(console.file)):
            while going():
                time.sleep(0.2)
        return
    told: set[str] = set()

    def redraw(view: Live) -> None:
        variants = progress.read()
        view.update(live_table(variants, title, console.size.height - CHROME))
        for note in _new_notes(variants, told):
            view.console.print(note, markup=False, highlight=False, soft_wrap=True)

    first = live_table(progress.read(), title, console.size.height - CHROME)
    with Live(first, console=console, refresh_per_second=4) as view:
        while going():
            time.sleep(LOOK_EVERY)
            redraw(view)
        redraw(view)  # the last half second


def _new_notes(variants: Sequence[VariantProgress], told: set[str]) -> list[str]:
    """Notes not printed yet, each once for all variants that share a stage run."""
    new = [f"note: {note}" for note in dict.fromkeys(n for v in variants for n in v.notes) if note not in told]
    told.update(n for v in variants for n in v.notes)
    return new


@contextmanager
def plain_progress(runs: Path, search_name: str, names: list[str]) -> Iterator[None]:
    """Print a line whenever something happens, and at intervals while a variant trains."""
    if quiet():
        yield
        return
    with _printing(SearchProgress(runs, search_name, names, time.time()), _flushed(sys.stdout)):
        yield


def _flushed(file: IO[str]) -> Callable[[str], object]:
    """Unbuffered writes: without a terminal Python buffers 8 kB."""

    def write(text: str) -> None:
        with suppress(OSError):  # whoever read it has gone, or its disk is full: the work goes on
            file.write(text)
            file.flush()

    return write


@contextmanager
def _printing(progress: SearchProgress, write: Callable[[str], object], every: float = 10.0) -> Iterator[None]:
    """Lines as things happen; and of what trains or is asked, one at intervals."""
    stop = threading.Event()

    def follow() -> None:
        happenings = Happenings(progress.runs, progress.search, progress.since)
        noted: set[str] = set()
        told: dict[str, str] = {}
        last = time.monotonic()
        while True:
            ended = stop.wait(LOOK_EVERY)
            variants = progress.read()
            for note in _new_notes(variants, noted):
                write(note + "\n")
            for line in happenings.new(progress.variants):
                write(line + "\n")
            if time.monotonic() - last > every or ended:
                last = time.monotonic()
                for v in variants:
                    if (said := _going_on(v)) and told.get(v.name) != said:
                        told[v.name] = said
                        write(f"{v.name}: {said}\n")
            if ended:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _going_on(v: VariantProgress) -> str:
    """`finetune 120/480, loss 2.345, held-out loss 2.123, 2:10 left`."""
    if v.state == "training" and v.loss is not None:
        held = f", held-out loss {v.validation:.3f}" if v.validation is not None else ""
        left = f", {duration(v.seconds_left)} left" if v.seconds_left is not None else ""
        return f"{v.stage} {v.step}/{v.steps}, loss {v.loss:.3f}{held}{left}"
    return f"asked {v.asked}" if v.state == "evaluating" and v.asked else ""
