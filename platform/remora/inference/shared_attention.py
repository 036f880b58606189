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

from remora.inference.spans import SlotSpan

SAVES = 256 << 10
"""Bytes of keys and values that a layer need not read again, from which on it is worth some ten more operations."""
BLOCK = 64
"""Columns behind the prefix are read by so many, each block as far as it is some row's."""


Index = slice | Tensor


@dataclass(frozen=True)
class SharedRows:
    """Rows whose prefixes have one length, of which at least two share each. They are taken by place: their slot's
    number behind the first one's. There may be places of others between."""

    rows: Index
    """Their numbers in the pass, by place."""
    at: Index
    """Their places, ascending."""
    slots: slice
    """The slots of all places."""
    prefix: int
    groups: tuple[tuple[int, Index], ...]
    """A slot that has the prefix, and the places of the rows that share it."""
    blocks: tuple[tuple[slice, slice], ...]
    """(places, columns behind the prefix) that hold keys."""
    unseen: Tensor
    """[places, 1, T]: minus infinity behind a row's last token, otherwise 0."""
    saved: int
    """Tokens that are not read again."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, found: Tensor) -> None:
        """query [heads, R, D], a token of each row of the pass; a layer's memory [slots, groups, columns, D]; writes
        these rows of `found` [R, heads, D of values]."""
        heads, _, width = query.shape
        parts, prefix = key.shape[1], self.prefix
        each = heads // parts  # heads that look at the same keys
        keys, values = key[self.slots], value[self.slots]
        places, tail = self.unseen.shape[0], self.unseen.shape[-1]
        asked = query.new_zeros(parts, places, each, width)
        asked[:, self.at] = query[:, self.rows].view(parts, each, -1, width).transpose(1, 2)
        asked *= width**-0.5 if scaling is None else scaling

        scores = query.new_zeros(parts, places, each, prefix + tail)
        for slot, some in self.groups:
            mine = asked[:, some].reshape(parts, -1, width)
            seen = torch.bmm(mine, key[slot, :, :prefix].transpose(1, 2))
            scores[:, some, :, :prefix] = seen.view(parts, -1, each, prefix)
        for some, columns in self.blocks:
            there = slice(prefix + columns.start, prefix + columns.stop)
            own = torch.matmul(asked[:, some].transpose(0, 1), keys[some, :, there].transpose(2, 3))
            scores[:, some, :, there] = own.transpose(0, 1)
        scores[..., prefix:] += self.unseen
        weights = torch.softmax(scores, -1)

        wide = value.shape[-1]  # some models' values are narrower than their keys
        told = query.new_zeros(parts, places, each, wide)
        for slot, some in self.groups:
            mine = weights[:, some, :, :prefix].reshape(parts, -1, prefix)
            told[:, some] = torch.bmm(mine, value[slot, :, :prefix]).view(parts, -1, each, wide)
        for some, columns in self.blocks:
            there = slice(prefix + columns.start, prefix + columns.stop)
            own = torch.matmul(weights[:, some, :, there].transpose(0, 1), values[some, :, there])
            told[:, some] += own.transpose(0, 1)
        found[self.rows] = told[:, self.at].transpose(0, 1).reshape(-1, heads, wide)


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
    first = spans[rows[0]].slot
    place = {i: spans[i].slot - first for i in rows}
    tails = {i: spans[i].start + 1 - prefix for i in rows}
    places, longest = place[rows[-1]] + 1, max(tails.values())
    blocks: list[tuple[slice, slice]] = []
    for column in range(0, longest, BLOCK):
        live = [place[i] for i in rows if tails[i] > column]
        some, end = slice(live[0], live[-1] + 1), min(longest, column + BLOCK)
        if blocks and blocks[-1][0] == some:
            blocks[-1] = some, slice(blocks[-1][1].start, end)
        else:
            blocks.append((some, slice(column, end)))
    ends = torch.ones(places, dtype=torch.long)
    ends[list(place.values())] = torch.tensor(list(tails.values()))
    return SharedRows(
        rows=_index(rows),
        at=_index([place[i] for i in rows]),
        slots=slice(first, first + places),
        prefix=prefix,
        groups=tuple((spans[group[0]].slot, _index(sorted(place[i] for i in group))) for group in groups),
        blocks=tuple(blocks),
        unseen=torch.zeros(places, 1, longest).masked_fill(torch.arange(longest) >= ends[:, None, None], -torch.inf),
        saved=(len(rows) - len(groups)) * prefix,
    )


def _index(numbers: list[int]) -> Index:
    """A slice where that is possible: nothing is copied for one."""
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return slice(numbers[0], numbers[-1] + 1)
    return torch.tensor(numbers)
