"""A least-recently-used cache with a size limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Values with a total `size` of at most `limit`. Not thread-safe."""

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self._limit, self._size = limit, size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self.held = 0
        """The present total size."""

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable) -> Value | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: Hashable, value: Value) -> None:
        """Keep `value` under a new key."""
        self._values[key] = value
        self.held += self._size(value)
        while self.held > self._limit:
            self.held -= self._size(self._values.popitem(last=False)[1])
