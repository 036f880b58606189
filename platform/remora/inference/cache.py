"""A key-value cache with one slot per row: rows of unequal lengths, written in place, join and leave at any step.

transformers' DynamicLayer copies everything for each new token (torch.cat) and has one length for all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from remora.inference.spans import SlotSpan

Prefix = list[tuple[Tensor, Tensor]]
"""Each layer's keys and values [heads, tokens, D] of a shared prefix."""


class SlotCache:
    """Each layer's keys and values [slots, heads, columns, D]; a row's tokens fill the first columns of its slot.

    Memory after a row's tokens is masked, but a NaN would pass any mask, so new memory and free slots are zeros.
    """

    def __init__(self, layers: int) -> None:
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self.slots = self.columns = 0

    def resize(self, slots: int, columns: int, kept: Sequence[int] = ()) -> None:
        """Change the number of slots and columns. The rows in the slots `kept`, which must fit, are then in the first
        ones, in this order."""
        shared = min(columns, self.columns)
        self.slots, self.columns = slots, columns
        for i, layer in enumerate(self._layers):  # one at a time: memory never holds the whole cache twice
            if layer is not None:
                for new, old in zip(self._new(i, *layer), layer, strict=True):
                    for slot, before in enumerate(kept):
                        new[slot, :, :shared] = old[before, :, :shared]

    def clear(self) -> None:
        """Free all memory."""
        self._layers = [None] * len(self._layers)
        self.slots = self.columns = 0

    def _new(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros for a layer's keys and values with the heads and widths of these, [..., heads, *, D]."""
        made = [s.new_zeros(self.slots, s.shape[-3], self.columns, s.shape[-1]) for s in (keys, values)]
        self._layers[layer] = made[0], made[1]
        return made[0], made[1]

    def layer(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's memory, allocated with its first states [..., heads, *, D]."""
        return self._layers[layer] or self._new(layer, keys, values)

    def window(self, spans: Sequence[SlotSpan]) -> Cache:
        """A cache for a pass over these tokens, of which spans of one token come first."""
        writing, used = SlotWriting(self, spans), max(span.start for span in spans)
        return Cache(layers=[_Window(writing, i, used) for i in range(len(self._layers))])

    def put(self, slot: int, prefix: Prefix) -> None:
        """Begin a row with a prefix."""
        for i, states in enumerate(prefix):
            for held, given in zip(self.layer(i, *states), states, strict=True):
                held[slot, :, : given.shape[1]] = given

    def take(self, slot: int, tokens: int) -> Prefix:
        """A copy of a row's first tokens."""
        layers = [layer for layer in self._layers if layer is not None]
        return [(keys[slot, :, :tokens].clone(), values[slot, :, :tokens].clone()) for keys, values in layers]

    def free(self, slot: int, tokens: int) -> None:
        """Remove a row of so many tokens."""
        for layer in self._layers:
            for held in layer or ():
                held[slot, :, :tokens] = 0


class SlotWriting:
    """Writes the states of a pass's tokens into their slots; spans of one token come first."""

    def __init__(self, cache: SlotCache, spans: Sequence[SlotSpan]) -> None:
        ones = [span for span in spans if span.tokens == 1]
        self._cache, self._spans = cache, spans[len(ones) :]
        self._slots, self._columns = torch.tensor([(span.slot, span.start) for span in ones]).view(-1, 2).unbind(1)

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's states [heads, N, D]; returns the layer's memory."""
        memory = self._cache.layer(layer, keys, values)
        for held, given in zip(memory, (keys, values), strict=True):
            at = len(self._slots)
            if at:
                held[self._slots, :, self._columns] = given[:, :at].transpose(0, 1)
            for span in self._spans:
                held[span.slot, :, span.start : span.start + span.tokens] = given[:, at : at + span.tokens]
                at += span.tokens
        return memory


class _Window(DynamicLayer):
    """One layer of `SlotCache.window`, in the form that transformers' models take."""

    def __init__(self, writing: SlotWriting, layer: int, used: int) -> None:
        super().__init__()
        self.is_initialized = True
        self._writing, self._layer, self._used = writing, layer, used

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write states [1, heads, N, D] into their slots; returns the layer's memory."""
        return self._writing.put(self._layer, key_states[0], value_states[0])

    def get_seq_length(self) -> int:
        return self._used
