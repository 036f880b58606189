"""Asking a stage that trains to stop at its next validation: a file in its working folder.

Rank 0 looks for it right after each validation is in the journal. The stage then makes a checkpoint, takes the file
away and ends with `Paused`. Whoever trains the same stage run later goes on from that checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from remora.files import write_atomic

STOP = "stop"


def ask(work: Path) -> None:
    """Ask the stage that trains in `work` to stop."""
    write_atomic(work / STOP, "stop at the next validation\n")


def is_asked(work: Path) -> bool:
    return (work / STOP).exists()


def forget(work: Path) -> None:
    """The wish was granted, or is not a wish any more."""
    (work / STOP).unlink(missing_ok=True)
