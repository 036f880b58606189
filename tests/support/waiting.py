"""Wait for a condition, not for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 600.0
"""Seconds that a wait may take on a loaded machine before it counts as hung."""


def until(what: str, found: Callable[[], Any], every: float = 0.05) -> Any:
    """The first true value that `found` returns; it is called every few hundredths of a second.

    Raises:
        AssertionError: it never came; `what` says what was waited for.
    """
    end = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < end, f"waited {PATIENCE:.0f} s for {what}"
        time.sleep(every)
    return value
