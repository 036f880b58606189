"""A stage run's journal: one JSON line an event, in the order they happened.

The journal, not the tracker, is where figures are written first. It sits beside the checkpoints, survives a lost
tracker, and feeds both MLflow and the progress display. A resumed run first drops the lines of steps it will repeat.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remora.files import write_atomic

JOURNAL = "journal.jsonl"


def append(path: Path, event: str, **fields: Any) -> None:
    """Write one event; a line is short enough to be written in one piece."""
    with path.open("a") as f:
        f.write(json.dumps({"event": event, "time": time.time(), **fields}) + "\n")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """All whole lines; a last line that is still being written is left for the next time."""
    if not path.exists():
        return
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def drop_steps_from(path: Path, step: int) -> None:
    """Forget what happened in steps from `step` on: the run resumes there and will write it again."""
    if path.exists():
        kept = [e for e in read(path) if e.get("step", -1) < step]
        write_atomic(path, "".join(json.dumps(e) + "\n" for e in kept))
