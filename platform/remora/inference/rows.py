"""Which prompts go through the language model together, and what they share.

A prompt has a head (the template's words before its pictures), a body (to the end of the last picture) and a tail.
Heads are mostly the same for all, bodies for all questions about one picture: each is read once a batch (reading.py).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from remora.marks import IMAGE


@dataclass(frozen=True)
class Row:
    """A prompt: ids with IMAGE where pictures go, the names of those pictures in reading order, and how many tokens may
    follow."""

    ids: tuple[int, ...]
    images: tuple[int, ...]
    limit: int = 0

    @cached_property
    def head(self) -> int:
        """Tokens before the first picture."""
        return self.ids.index(IMAGE) if self.images else 0

    @cached_property
    def body(self) -> int:
        """Tokens to the end of the last picture. What predicts the answer's first token is never shared, so a prompt
        that ends with its picture has no body of its own."""
        end = len(self.ids) - self.ids[::-1].index(IMAGE) if self.images else 0
        return end if end < len(self.ids) else self.head

    def shared(self, end: int) -> Hashable:
        """Equal for rows that have the same first `end` tokens, the head's or the body's."""
        return self.ids[:end], self.images if end > self.head else ()


def plan(rows: Sequence[Row], padded: bool, most: int, tokens: int) -> Iterator[list[int]]:
    """Indices of the rows of each batch: at most `most`, whose caches hold at most `tokens`, with room in every row for
    the longest prompt and for the longest answer of any.

    Where tails may be `padded`, rows with heads and bodies of the same lengths go together, those about one picture in
    one batch if they fit, and long ones with long ones; the shortest come first. Else the rows of a batch are of one
    length.
    """
    kinds: dict[Hashable, dict[Hashable, list[int]]] = {}

    def length(i: int) -> int:
        return len(rows[i].ids)

    for i in sorted(range(len(rows)), key=length):
        row = rows[i]
        alike = kinds.setdefault((row.head, row.body) if padded else length(i), {})
        alike.setdefault(row.shared(row.body), []).append(i)
    for alike in kinds.values():
        groups = sorted(alike.values(), key=lambda group: length(group[-1]))
        body = rows[groups[0][0]].body if padded else 0

        def fit(batch: Sequence[int], bodies: int, body: int = body) -> bool:
            each = max(map(length, batch)) + max(rows[i].limit for i in batch)
            return len(batch) <= most and len(batch) * each + bodies * body <= tokens

        batch: list[int] = []
        bodies = 0
        for group in groups:
            if batch and fit(group, 1) and not fit([*batch, *group], bodies + 1):
                yield sorted(batch, key=length)
                batch, bodies = [], 0
            bodies += 1
            for i in group:
                if batch and not fit([*batch, i], bodies):
                    yield sorted(batch, key=length)
                    batch, bodies = [], 1
                batch.append(i)
        yield sorted(batch, key=length)
