"""A key-value cache with one slot per row: rows of unequal lengths, written in place, join and leave at any step.

transformers' DynamicLayer copies everything for each new token (torch.cat) and has one length for all rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

Prefix = list[tuple[Tensor, Tensor]]
"""Each layer's keys and values [heads, tokens, D] of a shared prefix."""


class SlotCache:
    """Each layer's keys and values [slots, heads, columns, D]; a row's tokens fill the first columns of its slot.

    Memory after a row's tokens is masked, but a NaN would pass any mask, so new memory and free slots are zeros.
    """

    def __init__(self, layers: int) -> None:
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self.slots = self.columns = 0
        self._written = 0  # columns written in any slot

    def resize(self, slots: int, columns: int) -> None:
        """Change the number of slots and columns; rows keep their tokens, which must fit."""
        kept, self._written = min(slots, self.slots), min(self._written, columns)
        self.slots, self.columns = slots, columns
        for i, layer in enumerate(self._layers):  # one at a time: memory never holds the whole cache twice
            if layer is not None:
                for new, old in zip(self._new(i, *layer), layer, strict=True):
                    new[:kept, :, : self._written] = old[:kept, :, : self._written]

    def clear(self) -> None:
        """Free all memory."""
        self._layers = [None] * len(self._layers)
        self.slots = self.columns = self._written = 0

    def _new(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros for a layer's keys and values with the heads and widths of these, [..., heads, *, D]."""
        made = [s.new_zeros(self.slots, s.shape[-3], self.columns, s.shape[-1]) for s in (keys, values)]
        self._layers[layer] = made[0], made[1]
        return made[0], made[1]

    def layer(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's memory, allocated with its first states [..., heads, *, D]."""
        return self._layers[layer] or self._new(layer, keys, values)

    def window(self, first: int, last: int, start: int, lengths: Tensor | None = None) -> Cache:
        """A cache for a pass over rows `first` to `last`: it appends after their first `start` tokens, or one token
        each after its own `lengths` [B], of which `start` is the largest."""
        places = None if lengths is None else (torch.arange(last - first, device=lengths.device), lengths)
        return Cache(layers=[_Window(self, i, slice(first, last), start, places) for i in range(len(self._layers))])

    def wrote(self, columns: int) -> None:
        self._written = max(self._written, columns)

    def put(self, slot: int, prefix: Prefix) -> None:
        """Begin a row with a prefix."""
        for i, states in enumerate(prefix):
            for held, given in zip(self.layer(i, *states), states, strict=True):
                held[slot, :, : given.shape[1]] = given
        self.wrote(prefix[0][0].shape[1])

    def take(self, slot: int, tokens: int) -> Prefix:
        """A copy of a row's first tokens."""
        layers = [layer for layer in self._layers if layer is not None]
        return [(keys[slot, :, :tokens].clone(), values[slot, :, :tokens].clone()) for keys, values in layers]

    def free(self, slot: int, last: int) -> None:
        """Remove a row; the last one takes its slot, so that rows stay contiguous."""
        for layer in self._layers:
            for held in layer or ():
                if slot != last:
                    held[slot, :, : self._written] = held[last, :, : self._written]
                held[last, :, : self._written] = 0


class _Window(DynamicLayer):
    """One layer of `SlotCache.window`, in the form that transformers' models take."""

    def __init__(
        self, cache: SlotCache, layer: int, rows: slice, start: int, places: tuple[Tensor, Tensor] | None
    ) -> None:
        super().__init__()
        self.is_initialized = True
        self._cache, self._layer, self._rows = cache, layer, rows
        self._used, self._places = start, places  # where each row's token goes, if not all at `start`

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append states [B, heads, t, D]; returns all states of these rows, [B, heads, tokens, D]."""
        start, self._used = self._used, self._used + key_states.shape[2]
        self._cache.wrote(self._used)
        whole = self._cache.layer(self._layer, key_states, value_states)
        keys, values = (held[self._rows, :, : self._used] for held in whole)
        for held, given in ((keys, key_states), (values, value_states)):
            if self._places is None:
                held[:, :, start:] = given
            else:
                held[self._places[0], :, self._places[1]] = given[:, :, 0]
        return keys, values

    def get_seq_length(self) -> int:
        return self._used
