"""Live progress of a training run or a search: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.live import Live

from remora.reporting.progress import SearchProgress, VariantProgress
from remora.reporting.tables import live_table

UNTOLD = ("starting", "queued")
"""States without a line: Ray's start prints its own, and most of a search is always waiting."""


def draw(progress: SearchProgress, title: str, console: Console, going: Callable[[], bool]) -> None:
    """Redraw the table while `going`, on a terminal in place, elsewhere a line whenever something changes."""
    if not console.is_terminal:
        with _printing(progress, _flushed(console.file)):
            while going():
                time.sleep(0.2)
        return
    told: set[str] = set()

    def redraw(view: Live) -> None:
        variants = progress.read()
        view.update(live_table(variants, title))
        for note in _new_notes(variants, told):
            view.console.print(note, markup=False, highlight=False, soft_wrap=True)

    with Live(live_table(progress.read(), title), console=console, refresh_per_second=4) as view:
        while going():
            time.sleep(0.5)
            redraw(view)
        redraw(view)  # the last half second


def _new_notes(variants: Sequence[VariantProgress], told: set[str]) -> list[str]:
    """Notes not printed yet, each once for all variants that share a stage run."""
    new = [f"note: {note}" for note in dict.fromkeys(n for v in variants for n in v.notes) if note not in told]
    told.update(n for v in variants for n in v.notes)
    return new


@contextmanager
def plain_progress(runs: Path, search_name: str, names: list[str]) -> Iterator[None]:
    """Print a line whenever a variant's state changes, and at intervals while it trains."""
    with _printing(SearchProgress(runs, search_name, names, time.time()), _flushed(sys.stdout)):
        yield


def _flushed(file: IO[str]) -> Callable[[str], object]:
    """Unbuffered writes: without a terminal Python buffers 8 kB."""

    def write(text: str) -> None:
        file.write(text)
        file.flush()

    return write


@contextmanager
def _printing(progress: SearchProgress, write: Callable[[str], object], every: float = 10.0) -> Iterator[None]:
    stop = threading.Event()

    def follow() -> None:
        told: dict[str, str] = {}
        noted: set[str] = set()
        last = 0.0
        while True:
            ended = stop.wait(1.0)
            due = time.monotonic() - last > every
            variants = progress.read()
            for note in _new_notes(variants, noted):
                write(note + "\n")
            for v in variants:
                state = f"{v.state} {v.run}" if v.stage else v.state
                if v.accuracy:
                    state += "".join(f"; {name} {value:.3f}" for name, value in v.accuracy.items())
                step = f", step {v.step}/{v.steps}, loss {v.loss:.3f}" if v.loss is not None else ""
                step += f", validation {v.validation:.3f}" if step and v.validation is not None else ""
                if v.state in UNTOLD:
                    continue
                if told.get(v.name) != state or (step and due):
                    write(f"{v.name}: {state}{step}\n")
                    told[v.name] = state
            if due:
                last = time.monotonic()
            if ended:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
