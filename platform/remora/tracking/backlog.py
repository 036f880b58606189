"""The calls that MLflow has not taken yet: one JSON line a call, in the order they were made.

Several processes of a job share a run folder, so every change of the file is made under a lock, and one process at a
time replays. Lines are forgotten after they were written, never before: a replay that is killed is repeated, which
does no harm because every call carries its time and identity (see `server.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remora.files import lines

BACKLOG = "tracking-backlog.jsonl"
FIRST = "do"
"""The key that every line begins with."""
NEEDS = {
    "start": ("run", "at", "key", "name", "parent", "tags", "params"),
    "metrics": ("run", "at", "step", "metrics"),
    "steps": ("run", "steps"),
    "text": ("run", "text", "file"),
    "artifacts": ("run", "folder", "path"),
    "tag": ("run", "key", "value"),
    "inputs": ("run", "inputs"),
    "finish": ("run", "at", "status"),
}
"""Each call, and what it is made with."""
REJECTED = "tracking-rejected.jsonl"


@contextlib.contextmanager
def locked(path: Path, wait: float | None = None) -> Iterator[bool]:
    """Hold an advisory lock on `path`; yields False when somebody else held it for all of `wait` seconds.

    A file system without locks (some object-store mounts) yields True: order may suffer there, training may not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as f:
        deadline = None if wait is None else time.monotonic() + wait
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX if deadline is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if deadline is not None and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                yield False
                return
            except OSError:
                pass
            break
        yield True  # closing the file releases the lock


def whole(record: dict[str, Any]) -> bool:
    """Whether a call can be made from its record."""
    needed = NEEDS.get(record[FIRST]) if isinstance(record[FIRST], str) else None
    return needed is not None and record.keys() >= set(needed)


class Backlog:
    """The waiting calls of a run folder."""

    def __init__(self, runs: Path) -> None:
        self.path = runs / BACKLOG
        self.rejected = runs / REJECTED
        self._edits = runs / ".tracking-backlog.lock"
        self._replays = runs / ".tracking-replay.lock"

    def empty(self) -> bool:
        try:
            return self.path.stat().st_size == 0
        except FileNotFoundError:
            return True

    def append(self, record: dict[str, Any]) -> None:
        with locked(self._edits):
            lines.append(self.path, [record])

    def reject(self, line: str, reason: str) -> None:
        """Put a call aside that MLflow answered with a refusal: repeating it would block all calls behind it."""
        with locked(self._edits):
            lines.append(self.rejected, [{"reason": reason, "line": line}])

    def replaying(self, wait: float = 0.0) -> contextlib.AbstractContextManager[bool]:
        """The right to replay; False when another process has it."""
        return locked(self._replays, wait)

    def lines(self) -> list[tuple[bytes, int]]:
        """Whole lines, each with the offset of its end; a last line without its end is left for later."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        found, end = [], 0
        for line in data.split(b"\n")[:-1]:
            end += len(line) + 1
            found.append((line, end))
        return found

    def forget(self, end: int) -> None:
        """Drop the lines up to offset `end`; what was appended meanwhile stays."""
        if end == 0:
            return
        with locked(self._edits), contextlib.suppress(FileNotFoundError):
            rest = self.path.read_bytes()[end:]
            if not rest:
                self.path.unlink()
                return
            new = self.path.with_suffix(".new")
            new.write_bytes(rest)
            new.replace(self.path)
