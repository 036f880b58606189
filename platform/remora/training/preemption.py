"""Notice that this machine is about to be taken away: SIGTERM, as SLURM, Kubernetes and spot instances send it.

The first is heard and training goes on, with a checkpoint at once; a second one ends the process as usual.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_heard = threading.Event()


def listen() -> None:
    """Hear SIGTERM from now on. Only a process's main thread can."""

    def hear(number: int, frame: FrameType | None) -> None:
        _heard.set()
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, hear)


def given() -> bool:
    """Whether SIGTERM was heard."""
    return _heard.is_set()
