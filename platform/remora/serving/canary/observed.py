"""What a version did with a request, and what two of them did with the same one."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from remora.serving.engines.protocol import Delta, ModelFailure


@dataclass(frozen=True)
class Observation:
    """One version's answer to a request, without its words: a journal must not hold what clients were told."""

    error: str | None = None
    """The kind of its failure; what came before it counts for nothing."""
    empty: bool = False
    """Nothing but white space."""
    tokens: int = 0
    finish_reason: str | None = None
    first_token_s: float | None = None
    token_s: float | None = None
    """Seconds a token, from the first one on; None if all came at once."""


@dataclass(frozen=True)
class Comparison:
    """Both versions' answers to one request."""

    id: str
    answered: str
    """Whose answer the client got: stable or candidate."""
    stable: Observation
    candidate: Observation
    same: bool = False
    """The same text."""
    overlap: float = 0.0
    """Of their words, as F1; 1 for two empty answers."""
    dropped: int = 0
    """Requests that were to be compared since the comparison before, in the same ingress replica, and were not: no room
    in the shadow, or their clients went."""


class Watcher:
    """Makes an observation of an answer's deltas."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._began = clock, clock()
        self._first = self._last = 0.0
        self._with_it = 0  # tokens that came with the first one
        self._whole: Delta | None = None

    def heard(self, delta: Delta) -> None:
        self._last = self._clock()
        if self._whole is None:
            self._first, self._with_it = self._last, len(delta.tokens)
        self._whole = delta if self._whole is None else self._whole + delta

    @property
    def text(self) -> str:
        return self._whole.text if self._whole else ""

    def ended(self, error: BaseException | None = None) -> Observation:
        whole = self._whole
        if error is not None or whole is None or whole.finish_reason is None:
            kind = error.kind if isinstance(error, ModelFailure) else type(error).__name__ if error else "no end"
            return Observation(error=kind)
        count = len(whole.tokens)
        later = count - self._with_it
        pace = (self._last - self._first) / later if later > 0 else None
        first = self._first - self._began
        return Observation(None, not whole.text.strip(), count, whole.finish_reason, first, pace)


def overlap(first: str, second: str) -> float:
    """F1 of two texts' words, regardless of order and case; 1 if both have none."""
    a, b = (Counter(re.findall(r"\w+", text.lower())) for text in (first, second))
    if not a and not b:
        return 1.0
    return 2 * (a & b).total() / (a.total() + b.total())
