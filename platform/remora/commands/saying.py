"""What a command prints: whole lines, each written at once, on a terminal as in a pipe."""

from __future__ import annotations

import sys


def say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say_nothing(*lines: str) -> None:
    """Print nothing, for callers from Python: results are returned, errors are raised."""
