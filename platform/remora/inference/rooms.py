"""A key-value cache with room for a whole batch: it is written in place, copied for children, and rows can leave it.

transformers' DynamicLayer copies everything it holds for each new token (torch.cat), which for 64 rows of a small model
costs as much as the token itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class Room(DynamicLayer):
    """One layer's keys and values [B, heads, `tokens`, D], of which the first `used` are there."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.used = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            s.new_empty(*s.shape[:2], self.tokens, s.shape[3]) for s in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append states [B, heads, t, D]; returns all there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        start, self.used = self.used, self.used + key_states.shape[2]
        self.keys[:, :, start : self.used] = key_states
        self.values[:, :, start : self.used] = value_states
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def get_seq_length(self) -> int:
        return self.used

    def child(self, parents: Tensor, tokens: int) -> Room:
        """A layer with room for `tokens` whose row i begins with row parents[i] of this one."""
        assert self.keys is not None and self.values is not None
        child = Room(tokens)
        child.update(self.keys[parents, :, : self.used], self.values[parents, :, : self.used])
        return child

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, which are in ascending order."""
        assert self.keys is not None and self.values is not None
        kept = len(beam_idx)
        for held in (self.keys, self.values):
            held[:kept, :, : self.used] = held[beam_idx, :, : self.used]
        self.keys, self.values = self.keys[:kept], self.values[:kept]


def room(tokens: int, layers: int) -> Cache:
    """An empty cache for `tokens` tokens a row."""
    return Cache(layers=[Room(tokens) for _ in range(layers)])


def child(cache: Cache, parents: Sequence[int], tokens: int) -> Cache:
    """A cache of len(parents) rows; row i begins with what row parents[i] of `cache` holds."""
    rows = torch.tensor(parents)
    return Cache(layers=[cast(Room, layer).child(rows, tokens) for layer in cache.layers])
