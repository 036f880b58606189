"""A stage run's journal: one JSON line an event, in the order they happened.

The journal, not the tracker, is where figures are written first. It sits beside the checkpoints, survives a lost
tracker, and feeds both MLflow and the progress display. A resumed run first takes it over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remora.files import write_atomic

JOURNAL = "journal.jsonl"
BEGUN = '{"event": "attempt"'
"""How the line begins with which an attempt does."""


def append(path: Path, event: str, **fields: Any) -> None:
    """Write one event; a line is short enough to be written in one piece."""
    with path.open("a") as f:
        f.write(json.dumps({"event": event, "time": time.time(), **fields}) + "\n")


class Attempts:
    """Tells, event after event of a journal, which count: not those of an attempt that another had taken over from."""

    def __init__(self) -> None:
        self._newest = 0

    def count(self, event: dict[str, Any]) -> bool:
        attempt = event.get("attempt", self._newest)
        self._newest = max(self._newest, attempt)
        return bool(attempt == self._newest)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """All whole lines, but for those of an attempt that another one had taken over from.

    A last line that is still being written is left for the next time.
    """
    if not path.exists():
        return
    attempts = Attempts()
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n") and attempts.count(event := json.loads(line)):
            yield event


def steps_of(path: Path) -> list[dict[str, Any]]:
    """The events of steps alone."""
    return [e for e in read(path) if e["event"] == "step"]


def attempt(path: Path) -> int:
    """The newest attempt's number; 0 where there was none. Asked at each checkpoint, so other lines are not parsed."""
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["attempt"] for line in lines if line.startswith(BEGUN)), default=0)


def take_over(path: Path, step: int) -> int:
    """Begin an attempt that goes on at `step`; its number.

    What happened in steps from there on is forgotten, since it will happen again. In the same moment whoever was at
    work loses the journal: a rank 0 that was cut off, or stopped and woken, may write on, but nobody reads it.
    """
    number = attempt(path) + 1
    kept = [e for e in read(path) if e.get("step", -1) < step]
    begun = {"event": "attempt", "time": time.time(), "attempt": number}
    write_atomic(path, "".join(json.dumps(e) + "\n" for e in [*kept, begun]))
    return number
