"""A search that is asked to stop from another process: a file in its folder (`remora searches stop`)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from remora.processes import meanwhile

LOOK_EVERY = 0.5
"""Seconds between two looks for the file."""


def stop_file(folder: Path) -> Path:
    """Whose presence asks the search of that folder to stop."""
    return folder / "stop"


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Have a wish to stop end the block as Ctrl-C does: a stage run that this process trains may take hours.

    Only the main thread can be interrupted; in another one the block goes on until the search looks itself.

    Raises:
        KeyboardInterrupt: the search was asked to stop.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def asked() -> bool:
        if there := stop_file(folder).exists():
            signal.pthread_kill(main.ident or 0, signal.SIGUSR1)
        return there

    # Not SIGINT: what a shell starts in the background ignores it.
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with meanwhile(asked, LOOK_EVERY, "stop"):
            yield
    finally:
        signal.signal(signal.SIGUSR1, before)
