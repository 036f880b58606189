"""File locks in the run folder: the operating system releases them when their holder dies, in any way.

On a file system without locks (some object-store mounts) every lock is granted at once and every file counts as held:
order may suffer there, but training does not, and no run is taken for killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, wait: float | None = None) -> Iterator[bool]:
    """Hold `path` exclusively; yields False on a timeout of `wait` seconds."""
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


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold `path` as one of several holders; the last one removes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        f = path.open("a")
        with contextlib.suppress(OSError):
            fcntl.flock(f, fcntl.LOCK_SH)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(f.fileno())):
            break
        f.close()  # its last holder removed it in between
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        f.close()
