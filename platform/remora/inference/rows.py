"""Which requests run, and what a step of the model reads: in slots, or in groups of prompts of one length."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from remora.inference.decoding import Row, SlotBatch, WholeBatch
from remora.inference.generation import Generation
from remora.inference.pictures import EncodedPictures
from remora.inference.requests import FittedPicture

if TYPE_CHECKING:
    from remora.inference.answerer import Answerer

SHARED = 4
"""The share of the cache's bytes for kept prefixes is one over this."""
COLUMNS = 64
"""Slots grow by this many columns, since growing copies the cache."""


@dataclass(frozen=True)
class EngineLimits:
    """Limits of an engine."""

    rows: int
    cache_bytes: int
    chunk: int
    """Tokens of prompts in a step."""
    pictures: int
    """Pictures that are encoded in a step beside rows that decode."""


class RunningRows(Protocol):
    """The requests that run, and the model's memory of them."""

    pauses: bool
    """Whether a request may run and stay undecided."""

    @property
    def running(self) -> list[Generation]: ...

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values, reserved and kept."""
        ...

    def step(
        self, waiting: deque[Generation], undecided: Collection[Generation]
    ) -> Iterator[tuple[list[Generation], Tensor]]:
        """Take requests from those that wait, as many as fit, and go on with all but the `undecided`: yields requests
        and the logits [B, V] of their next tokens. The caller chooses these tokens before it takes the next pair."""
        ...

    def leave(self, gone: Collection[Generation]) -> None:
        """Remove requests."""
        ...


class SlotRows:
    """Each step gives a token to every row whose prompt is read, and reads at most `chunk` tokens of the others'
    prompts, in the order of their coming."""

    pauses = True

    def __init__(self, answerer: Answerer, limits: EngineLimits) -> None:
        self._limits, self._bytes = limits, answerer.token_bytes
        self._most_tokens = limits.cache_bytes * (SHARED - 1) // SHARED // answerer.token_bytes
        self._batch = SlotBatch(answerer.model.llm, limits.cache_bytes // SHARED)
        self._pictures = EncodedPictures(answerer)
        self._rows: dict[Generation, Row] = {}

    @property
    def running(self) -> list[Generation]:
        return list(self._rows)

    @property
    def cache_bytes(self) -> int:
        return self._batch.cache.slots * self._batch.cache.columns * self._bytes + self._batch.kept.held

    def step(
        self, waiting: deque[Generation], undecided: Collection[Generation]
    ) -> Iterator[tuple[list[Generation], Tensor]]:
        """As `RunningRows.step` says."""
        saying = [(row, one.said[-1]) for one, row in self._rows.items() if not row.unread and one not in undecided]
        reading: list[tuple[Row, int]] = []
        wanted: dict[bytes, FittedPicture] = {}
        tokens, pictures = self._limits.chunk, self._limits.pictures
        for row in self._to_read(waiting):
            count, new = self._as_many(row, tokens, pictures, wanted)
            if not count:
                break
            for number in row.prompt.pictures_in(row.tokens, count):
                wanted[row.prompt.pictures[number].digest] = row.prompt.pictures[number]
            reading.append((row, count))
            tokens, pictures = tokens - count, pictures - new
            if not tokens:
                break
        if saying or reading:
            shown = self._pictures.of(list(wanted.values()))  # all rows' together: alone, each costs twice as much
            heard, logits = self._batch.step(saying, reading, shown)
            if heard:
                of = {row: one for one, row in self._rows.items()}
                yield [of[row] for row in heard], logits

    def leave(self, gone: Collection[Generation]) -> None:
        self._batch.leave([self._rows.pop(one) for one in gone])

    def _as_many(self, row: Row, tokens: int, pictures: int, wanted: Container[bytes]) -> tuple[int, int]:
        """How many tokens of a prompt may be read now, and how many pictures have to be encoded for them beside those
        that are wanted already."""
        count, new = min(row.unread, tokens), 0
        for number in row.prompt.pictures_in(row.tokens, count):
            picture = row.prompt.pictures[number]
            if picture.digest not in wanted and picture not in self._pictures:
                if new == pictures:
                    return max(0, row.prompt.picture_starts(number) - row.tokens), new
                new += 1
        return count, new

    def _to_read(self, waiting: deque[Generation]) -> Iterator[Row]:
        """The rows with something to read: those that run, then those of requests that have waited longest, as long as
        there is room. One whose prefix is just being read waits until it can copy it."""
        yield from [row for row in self._rows.values() if row.unread]
        for one in list(waiting):
            if len(self._rows) >= self._limits.rows:
                return
            if self._batch.is_read(one.known):
                continue
            if not self._reserve(one, waiting):
                return
            waiting.remove(one)
            row = self._rows[one] = self._batch.join(one.known)
            one.cached = min(row.tokens, len(one.prompt.ids))
            yield row

    def _reserve(self, one: Generation, waiting: Collection[Generation]) -> bool:
        """Make room for one more request, and for those that wait as far as the memory allows, since growing copies
        the cache. False if it does not fit beside the others."""
        cache, most = self._batch.cache, self._most_tokens
        rows, columns = len(self._rows) + 1, max([one.need, *(other.need for other in self._rows)])
        if rows > 1 and rows * columns > most:
            return False
        if rows > cache.slots or columns > cache.columns:
            longest = max([columns, *(other.need for other in waiting)])
            columns = max(columns, min(longest + -longest % COLUMNS, most // rows))
            soon = max(2 * rows, len(self._rows) + len(waiting))
            self._batch.resize(max(rows, min(soon, self._limits.rows, most // columns)), columns)
        return True


@dataclass(eq=False)
class _Group:
    """Prompts of one length, and their requests."""

    batch: WholeBatch
    ones: list[Generation]


class EqualRows:
    """For models whose cache does not take rows of unequal lengths: prompts of one length are read whole and decode
    together, those of other lengths beside them."""

    pauses = False

    def __init__(self, answerer: Answerer, limits: EngineLimits) -> None:
        self._llm, self._limits, self._bytes = answerer.model.llm, limits, answerer.token_bytes
        self._most_tokens = limits.cache_bytes // answerer.token_bytes
        self._pictures = EncodedPictures(answerer)
        self._groups: list[_Group] = []

    @property
    def running(self) -> list[Generation]:
        return [one for group in self._groups for one in group.ones]

    @property
    def cache_bytes(self) -> int:
        return sum(one.need for one in self.running) * self._bytes

    def step(
        self, waiting: deque[Generation], undecided: Collection[Generation]
    ) -> Iterator[tuple[list[Generation], Tensor]]:
        """As `RunningRows.step` says."""
        for group in list(self._groups):
            yield group.ones, group.batch.step([one.said[-1] for one in group.ones])
        while new := self._of_one_length(waiting):
            prompts = [one.known for one in new]
            shown = self._pictures.of([picture for prompt in prompts for picture in prompt.pictures])
            self._groups.append(_Group(WholeBatch(self._llm, prompts, shown), new))
            yield new, self._groups[-1].batch.logits

    def leave(self, gone: Collection[Generation]) -> None:
        for group in list(self._groups):
            if rows := {i for i, one in enumerate(group.ones) if one in gone}:
                group.ones = [group.ones[i] for i in group.batch.leave(rows)]
                if not group.ones:
                    self._groups.remove(group)

    def _of_one_length(self, waiting: deque[Generation]) -> list[Generation]:
        """The first of those that wait and all others with prompts of the same length, if they fit beside running
        ones."""
        if not waiting:
            return []
        length, running = len(waiting[0].known.ids), self.running
        new: list[Generation] = []
        for one in waiting:
            if len(one.known.ids) == length and len(new) < self._limits.rows:
                if new and sum(each.need for each in [*new, one]) > self._most_tokens:
                    break
                new.append(one)
        room = self._most_tokens - sum(one.need for one in running)
        fits = len(running) + len(new) <= self._limits.rows and sum(one.need for one in new) <= room
        if running and not fits:
            return []
        for one in new:
            waiting.remove(one)
        return new
