"""Preemption notice: SIGTERM, as sent by SLURM, Kubernetes and spot instances.

After the first one, training saves a checkpoint at once and continues; a second one ends the process as usual.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_heard = threading.Event()


def listen() -> None:
    """Install the SIGTERM handler. Must be called in the main thread."""

    def hear(number: int, frame: FrameType | None) -> None:
        _heard.set()
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, hear)


def given() -> bool:
    """Whether SIGTERM was received."""
    return _heard.is_set()
