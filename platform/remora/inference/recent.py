"""Prompts that were tokenised lately.

Benchmarks ask the same few questions about many pictures, and tokenising one costs as much as answering it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

HELD = 1 << 18
"""Tokens of all prompts that are kept together: about 10 MB of ids, and their text."""


class Recent:
    """What `make` gave for the last keys, as many as have `HELD` tokens together; of those longer than `longest` none.

    One thread is in `make` at a time: tokenizers are not made for several.
    """

    def __init__(self, make: Callable[..., tuple[int, ...]], longest: int) -> None:
        self._make = make
        self._longest = longest
        self._known: OrderedDict[Hashable, tuple[int, ...]] = OrderedDict()
        self._lock = threading.Lock()
        self.held = 0
        """Tokens that are kept now."""

    def get(self, key: Hashable) -> tuple[int, ...]:
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
            made = self._make(key)
            if len(made) < self._longest:
                self._known[key] = made
                self.held += len(made)
            while self.held > HELD:
                self.held -= len(self._known.popitem(last=False)[1])
            return made

    def clear(self) -> None:
        with self._lock:
            self._known.clear()
            self.held = 0
