"""A key-value cache with room for a whole batch: written in place, copied for children, joined, left by rows.

transformers' DynamicLayer copies all it holds for each new token (torch.cat).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class Room(DynamicLayer):
    """One layer's keys and values, `held`, each [B, heads, `tokens`, D], of which the first `used` tokens are there."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.used = 0
        self.held: list[Tensor] = []

    def _furnished(self, like: Sequence[Tensor], rows: int, used: int) -> Room:
        """Make room for rows with the heads of `like`, [*, heads, *, D] each; their first `used` tokens are to come."""
        self.held = [s.new_empty(rows, s.shape[1], self.tokens, s.shape[3]) for s in like]
        self.used = used
        self.is_initialized = True
        return self

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append states [B, heads, t, D]; returns all there are."""
        if not self.is_initialized:
            self._furnished((key_states, value_states), len(key_states), 0)
        start, self.used = self.used, self.used + key_states.shape[2]
        for held, given in zip(self.held, (key_states, value_states), strict=True):
            held[:, :, start : self.used] = given
        keys, values = (held[:, :, : self.used] for held in self.held)
        return keys, values

    def get_seq_length(self) -> int:
        return self.used

    def child(self, parents: Tensor, tokens: int) -> Room:
        """A layer with room for `tokens` whose row i begins with row parents[i] of this one."""
        child = Room(tokens)._furnished(self.held, len(parents), self.used)
        for ours, theirs in zip(child.held, self.held, strict=True):
            ours[:, :, : self.used] = theirs[parents, :, : self.used]
        return child

    @staticmethod
    def joined(parts: Sequence[Room], tokens: int) -> Room:
        """One layer with the rows of all. What a shorter one lacks of the longest is zero: it will be masked, but a NaN
        that happened to lie there would pass any mask."""
        counts = [len(part.held[0]) for part in parts]
        layer = Room(tokens)._furnished(parts[0].held, sum(counts), max(part.used for part in parts))
        for kind, held in enumerate(layer.held):
            for part, rows in zip(parts, held.split(counts), strict=True):
                rows[:, :, : part.used] = part.held[kind][:, :, : part.used]
                rows[:, :, part.used : layer.used] = 0
        return layer

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, which are in ascending order."""
        for held in self.held:
            held[: len(beam_idx), :, : self.used] = held[beam_idx, :, : self.used]
        self.held = [held[: len(beam_idx)] for held in self.held]


def room(tokens: int, layers: int) -> Cache:
    """An empty cache for `tokens` tokens a row."""
    return Cache(layers=[Room(tokens) for _ in range(layers)])


def child(cache: Cache, parents: Sequence[int], tokens: int) -> Cache:
    """A cache of len(parents) rows; row i begins with what row parents[i] of `cache` holds."""
    rows = torch.tensor(parents)
    return Cache(layers=[cast(Room, layer).child(rows, tokens) for layer in cache.layers])


def joined(caches: Sequence[Cache], tokens: int) -> Cache:
    """One cache with the rows of all, which are emptied layer by layer: memory holds no layer twice for long."""
    together = room(tokens, 0)
    while caches[0].layers:
        together.layers.append(Room.joined([cast(Room, cache.layers.pop(0)) for cache in caches], tokens))
    return together
