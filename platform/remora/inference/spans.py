"""What a pass over slots reads: a span of tokens for each row. It goes to every layer in the attention mask's place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class SlotSpan(NamedTuple):
    """Tokens of a pass that belong to a row: `tokens` of them, behind the `start` ones in its slot."""

    slot: int
    start: int
    tokens: int
    prefix: int = 0
    """Tokens at the slot's beginning that are equal to the last bit in all slots of its group."""
    group: int = 0


def spans_mask(spans: Sequence[SlotSpan]) -> Tensor:
    """The attention mask argument of a pass: int64 [1, 1, 1, 5 spans]. On the CPU, so that reading it waits for no
    GPU."""
    return torch.tensor(spans).view(1, 1, 1, -1)


def spans_of(mask: Tensor) -> tuple[SlotSpan, ...]:
    """The spans of a `spans_mask`."""
    return _spans(tuple(mask.flatten().tolist()))


@lru_cache(maxsize=2)  # every layer of a pass asks
def _spans(numbers: tuple[int, ...]) -> tuple[SlotSpan, ...]:
    return tuple(map(SlotSpan, *(numbers[i :: len(SlotSpan._fields)] for i in range(len(SlotSpan._fields)))))
