"""The calls that MLflow has not taken yet: one JSON line a call, in the order they were made.

Several processes of a job share a run folder, so every change of the file is made under a lock, and one process at a
time replays. Lines are forgotten after they were written, never before: a replay that is killed is repeated, which
does no harm because every call carries its time and identity (see `server.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BACKLOG = "tracking-backlog.jsonl"
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
            _append_line(self.path, json.dumps(record))

    def reject(self, line: str, reason: str) -> None:
        """Put a call aside that MLflow answered with a refusal: repeating it would block all calls behind it."""
        with locked(self._edits):
            _append_line(self.rejected, json.dumps({"reason": reason, "line": line}))

    def replaying(self, wait: float = 0.0) -> contextlib.AbstractContextManager[bool]:
        """The right to replay; False when another process has it."""
        return locked(self._replays, wait)

    def lines(self) -> list[tuple[str, int]]:
        """Whole lines, each with the offset of its end; a last line without its end is left for later."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        found, end = [], 0
        for line in data.splitlines(keepends=True):
            if line.endswith(b"\n"):
                end += len(line)
                found.append((line.decode(errors="replace").strip(), end))
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


def _append_line(path: Path, line: str) -> None:
    with path.open("ab+") as f:
        size = f.seek(0, os.SEEK_END)
        torn = False
        if size:
            # A process that died inside a write left half a line: end it, so that it does not swallow this one.
            f.seek(-1, os.SEEK_END)
            torn = f.read(1) != b"\n"
        f.write((b"\n" if torn else b"") + line.encode() + b"\n")
