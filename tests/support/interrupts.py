"""Ctrl-C for a process that a test starts."""

from __future__ import annotations

import signal


def hear_interrupts() -> None:
    """For `preexec_fn`: pytest may run where a shell ignores SIGINT, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
