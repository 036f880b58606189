"""Attention of rows that begin with the same tokens, a picture's mostly: their keys and values are read once for all.

A token's attention on a CPU takes as long as memory gives its keys and values, and most of them are the picture's. So
the scores on a prefix are one product for all rows of a group, with the slot of any one of them; behind it each row has
keys of its own. Weights are one softmax over both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.linalg import vecdot

from remora.inference.spans import SlotSpan

SAVES = 256 << 10
"""Bytes of keys and values that a layer need not read again, from which on it is worth some ten more operations."""
BLOCK = 64
"""Columns behind the prefix are read by so many, each block as far as it is some row's."""


Index = slice | Tensor


@dataclass(frozen=True)
class SharedRows:
    """Rows whose prefixes have one length, of which at least two share each; in the order of their slots."""

    rows: Index
    """Their numbers in the pass, [n]."""
    prefix: int
    groups: tuple[tuple[int, Index], ...]
    """A slot that has the prefix, and which of the rows share it."""
    blocks: tuple[tuple[slice, slice, slice], ...]
    """(some of the rows, their slots, columns): together they cover all of the rows' own tokens."""
    unseen: Tensor
    """[n, 1, T]: minus infinity behind a row's last token, otherwise 0."""
    saved: int
    """Tokens that are not read again."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, found: Tensor) -> None:
        """query [heads, R, D], a token of each row of the pass; a layer's memory [slots, groups, columns, D]; writes
        these rows of `found` [R, heads, D of values]."""
        heads, _, width = query.shape
        parts, prefix, wide = key.shape[1], self.prefix, value.shape[-1]
        each = heads // parts  # heads that look at the same keys
        count, tail = self.unseen.shape[0], self.unseen.shape[-1]
        asked = query[:, self.rows] * (width**-0.5 if scaling is None else scaling)
        asked = asked.view(parts, each, count, width).transpose(1, 2)  # [parts, n, each, D]

        # Behind the prefix by dot products: matrix products with one row reach half of memory's speed.
        scores = query.new_zeros(parts, count, each, prefix + tail)
        for slot, some in self.groups:
            seen = torch.bmm(asked[:, some].reshape(parts, -1, width), key[slot, :, :prefix].transpose(1, 2))
            scores[:, some, :, :prefix] = seen.view(parts, -1, each, prefix)
        for some, slots, columns in self.blocks:
            own = vecdot(key[slots, :, None, columns], asked[:, some].transpose(0, 1)[:, :, :, None])
            scores[:, some, :, columns] = own.transpose(0, 1)
        scores[..., prefix:] += self.unseen
        weights = torch.softmax(scores, -1)

        told = query.new_empty(parts, count, each, wide)
        for slot, some in self.groups:
            shares = weights[:, some, :, :prefix].reshape(parts, -1, prefix)
            told[:, some] = torch.bmm(shares, value[slot, :, :prefix]).view(parts, -1, each, wide)
        for some, slots, columns in self.blocks:
            shares = weights[:, some, :, columns].transpose(0, 1)[:, :, :, None]
            told[:, some] += vecdot(value[slots, :, None, columns].transpose(3, 4), shares).transpose(0, 1)
        found[self.rows] = told.transpose(0, 1).reshape(count, heads, wide)


@lru_cache(maxsize=2)  # every layer of a pass asks
def sharing(spans: tuple[SlotSpan, ...]) -> tuple[tuple[SharedRows, ...], tuple[int, ...]]:
    """Of rows that read one token each, those that share their prefix with another, by its length; and the numbers of
    the others."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, span in enumerate(spans):
        groups.setdefault((span.prefix, span.group if span.prefix else -i), []).append(i)
    sets: dict[int, list[list[int]]] = {}
    others: list[int] = []
    for (prefix, _), rows in groups.items():
        if prefix and len(rows) > 1:
            sets.setdefault(prefix, []).append(rows)
        else:
            others += rows
    return tuple(_set(spans, prefix, each) for prefix, each in sets.items()), tuple(sorted(others))


def _set(spans: Sequence[SlotSpan], prefix: int, groups: list[list[int]]) -> SharedRows:
    rows = sorted((i for group in groups for i in group), key=lambda i: spans[i].slot)
    place = {row: at for at, row in enumerate(rows)}
    tails = [spans[i].start + 1 - prefix for i in rows]
    blocks: list[tuple[slice, slice, slice]] = []
    for column in range(0, max(tails), BLOCK):
        run: list[int] = []  # neighbours, which have neighbouring slots
        for at, row in enumerate([*rows, -1]):
            goes_on = row >= 0 and tails[at] > column
            if run and not (goes_on and run[-1] == at - 1 and spans[rows[run[-1]]].slot == spans[row].slot - 1):
                first = spans[rows[run[0]]].slot
                end = min(column + BLOCK, max(tails[i] for i in run))
                there = slice(prefix + column, prefix + end)
                blocks.append((slice(run[0], run[-1] + 1), slice(first, first + len(run)), there))
                run = []
            if goes_on:
                run.append(at)
    unseen = torch.arange(max(tails)) >= torch.tensor(tails)[:, None, None]
    return SharedRows(
        rows=_index(rows),
        prefix=prefix,
        groups=tuple((spans[group[0]].slot, _index(sorted(place[i] for i in group))) for group in groups),
        blocks=tuple(blocks),
        unseen=torch.zeros(unseen.shape).masked_fill(unseen, -torch.inf),
        saved=(len(rows) - len(groups)) * prefix,
    )


def _index(numbers: list[int]) -> Index:
    """A slice where that is possible: nothing is copied for one."""
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return slice(numbers[0], numbers[-1] + 1)
    return torch.tensor(numbers)
