"""Continuous batching: requests join, get one token per step, and leave, independent of each other.

    engine = AnswerEngine(answerer)
    number = engine.add(Request(conversation, max_new_tokens=64))
    while engine.busy:
        for event in engine.step():
            ...  # event.request == number; event.answer with the last token

One thread owns an engine. After an exception from `step` it is unusable; add its requests to a new one, which gives the
same answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from remora.inference.decoding import DecodingBatch, Prefixes, SlotBatch, WholeBatch
from remora.inference.generation import Generation
from remora.inference.recent import Recent
from remora.inference.requests import Event, FittedPicture, Request, Stats
from remora.inference.sampling import NEAR, choose, logprobs

if TYPE_CHECKING:
    from remora.inference.answerer import Answerer

ROWS = 64
"""Maximum number of requests that decode together."""
CACHE_BYTES = 2 << 30
"""Bytes for keys and values: those of running requests, with room for their longest answers, and cached prefixes. The
batch size 1 cache of a request with a near tie is extra."""
SHARED = 4
"""The share of it for prefixes is one over this."""
PICTURE_BYTES = 128 << 20
"""Bytes for the embeddings of recently encoded pictures."""
PICTURES = 16
"""Pictures that go through the encoder at once; on a CPU its activations should fit the CPU cache."""
COLUMNS = 64
"""Slots grow by this many columns, since growing copies the cache."""


@dataclass
class _Group:
    """A batch and the requests of its rows."""

    batch: DecodingBatch
    rows: list[Generation]


class AnswerEngine:
    """Answers requests with an Answerer's model, first come first served, each as at batch size 1.

    At most `rows` decode together, and their keys and values have at most `cache_bytes` (a request that needs more runs
    alone). A request that ends or is cancelled frees its slot at once. If the model's cache takes rows of unequal
    lengths, a request joins at the next step with a free slot, and its prompt's prefix is copied from an earlier one
    with the same template or pictures. Otherwise prompts of equal length start together.
    """

    def __init__(self, answerer: Answerer, rows: int = ROWS, cache_bytes: int = CACHE_BYTES) -> None:
        self.answerer = answerer
        self._most_rows = rows
        self._most_tokens = cache_bytes * (SHARED - 1) // SHARED // answerer.token_bytes
        self._most_shared = cache_bytes // SHARED // answerer.token_bytes
        self._near = NEAR[answerer.dtype]
        self._waiting: deque[Generation] = deque()
        self._groups: list[_Group] = []
        self._slots = SlotBatch(answerer.model.llm) if answerer.joins else None
        if self._slots is not None:
            self._groups.append(_Group(self._slots, []))
        self._prefixes = Prefixes(answerer.model.llm, cache_bytes // SHARED)
        self._pictures: Recent[Tensor] = Recent(PICTURE_BYTES, lambda embeddings: embeddings.nbytes)
        self._added = 0
        self._prompt_tokens = self._shared_tokens = self._answer_tokens = self._near_ties = 0

    def add(self, request: Request) -> int:
        """Queue a request; returns the number by which events name it.

        Raises:
            DataError: as `Answerer.prompt` does.
            TooLong: the prompt and its answer may exceed the context.
        """
        self._waiting.append(Generation(self.answerer, request, self._added))
        self._added += 1
        return self._added - 1

    @torch.inference_mode()
    def cancel(self, number: int) -> None:
        """Drop a request: it gets no more events. A finished or unknown number is ignored."""
        self._waiting = deque(one for one in self._waiting if one.number != number)
        for group in self._groups:
            self._leave(group, {i for i, one in enumerate(group.rows) if one.number == number})

    def waits(self, number: int) -> bool:
        """Whether no step has begun with a request."""
        return any(one.number == number for one in self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a request waits or runs."""
        return bool(self._waiting or self._running)

    @property
    def stats(self) -> Stats:
        slots = self._slots.cache.slots * self._slots.cache.columns if self._slots else self._reserved()
        held = slots * self.answerer.token_bytes + self._prefixes.kept.held
        counts = (self._prompt_tokens, self._shared_tokens, self._answer_tokens, self._near_ties)
        need = sum(one.need for one in self._waiting)
        return Stats(len(self._waiting), len(self._running), need, *counts, held)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Generate one token for each running request, and the first token of those that join."""
        events: list[Event] = []
        for group in [group for group in self._groups if group.rows]:
            logits = group.batch.step([one.said[-1] for one in group.rows])
            events += self._say(group, 0, logits)
        for group, logits in self._join():
            events += self._say(group, len(group.rows) - len(logits), logits)
        return events

    @property
    def _running(self) -> list[Generation]:
        return [one for group in self._groups for one in group.rows]

    def _say(self, group: _Group, first: int, logits: Tensor) -> list[Event]:
        """Choose the next tokens of a group's rows from `first` on, by their logits; finished rows leave."""
        rows = group.rows[first:]
        tokens, ties = choose(logits, rows, self._near)
        ended: set[int] = set()
        events: list[Event] = []
        for i, (one, token, tie) in enumerate(zip(rows, tokens, ties, strict=True), first):
            answer = one.say(one.exact() if tie else token)
            best = one.request.top_logprobs
            told = None if best is None else logprobs(logits[i - first], one.said[-1], best)
            events.append(Event(one.number, one.said[-1], answer, told, one.cached))
            if answer is not None:
                ended.add(i)
        self._answer_tokens += len(rows)
        self._near_ties += sum(ties)
        self._leave(group, ended)
        return events

    def _leave(self, group: _Group, gone: set[int]) -> None:
        if gone:
            group.rows = [group.rows[i] for i in group.batch.leave(gone)]
            if not group.rows and group.batch is not self._slots:
                self._groups.remove(group)

    def _join(self) -> Iterator[tuple[_Group, Tensor]]:
        """Start the requests that have waited longest, as many as fit; yields their group and first logits."""
        llm = self.answerer.model.llm
        if self._slots is None:
            while new := self._of_one_length():
                prompts = [one.known for one in new]
                shown = self._embeddings([picture for prompt in prompts for picture in prompt.pictures])
                whole = WholeBatch(llm, prompts, shown)
                self._groups.append(_Group(whole, new))
                self._prompt_tokens += sum(len(prompt.ids) for prompt in prompts)
                yield self._groups[-1], whole.logits
        elif new := self._that_fit():
            (group,) = self._groups
            # Side by side: bodies of equal length, and prompts that need little padding (SlotBatch.join).
            new.sort(key=lambda one: (one.known.body, len(one.known.ids)))
            prompts = [one.known for one in new]
            known = [self._prefixes.has(prompt) for prompt in prompts]
            for one, has in zip(new, known, strict=True):
                one.cached = one.known.body if has else 0
            shown = self._embeddings(
                [
                    picture
                    for prompt, has in zip(prompts, known, strict=True)
                    if not has or prompt.body == prompt.head
                    for picture in prompt.pictures
                ]
            )
            prefixes = self._prefixes.of(prompts, shown)
            logits = self._slots.join(prompts, prefixes, shown)
            group.rows += new
            self._prompt_tokens += sum(len(prompt.ids) for prompt in prompts)
            self._shared_tokens += sum(prompt.body for prompt, has in zip(prompts, known, strict=True) if has)
            yield group, logits

    def _that_fit(self) -> list[Generation]:
        """The next requests that have a slot and fit the cache, beside the bodies they are copied from."""
        running = self._running
        longest = max((one.need for one in running), default=0)
        new: list[Generation] = []
        bodies: dict[object, int] = {}
        while self._waiting and len(running) + len(new) < self._most_rows:
            one = self._waiting[0]
            with_it = bodies | {one.known.prefix(one.known.body): one.known.body}
            rows, columns = len(running) + len(new) + 1, max(longest, one.need)
            if rows > 1 and rows * columns > self._most_tokens:
                break
            if new and sum(with_it.values()) > self._most_shared:
                break
            bodies, longest = with_it, columns
            new.append(self._waiting.popleft())
        if new:
            self._reserve(len(running) + len(new), longest)
        return new

    def _reserve(self, rows: int, columns: int) -> None:
        """Reserve slots for this many rows, and some more if there is room: growing copies the cache."""
        assert self._slots is not None
        cache, most = self._slots.cache, self._most_tokens
        if rows > cache.slots or columns > cache.columns:
            columns = max(columns, min(columns + -columns % COLUMNS, most // rows))
            cache.resize(max(rows, min(2 * rows, self._most_rows, most // columns)), columns)

    def _of_one_length(self) -> list[Generation]:
        """The first queued request and all others with prompts of the same length, if they fit beside running ones."""
        if not self._waiting:
            return []
        length = len(self._waiting[0].known.ids)
        new: list[Generation] = []
        for one in self._waiting:
            if len(one.known.ids) == length and len(new) < self._most_rows:
                if new and sum(each.need for each in [*new, one]) > self._most_tokens:
                    break
                new.append(one)
        room = self._most_tokens - self._reserved()
        fits = len(self._running) + len(new) <= self._most_rows and sum(one.need for one in new) <= room
        if self._running and not fits:
            return []
        chosen = {one.number for one in new}
        self._waiting = deque(one for one in self._waiting if one.number not in chosen)
        return new

    def _reserved(self) -> int:
        return sum(one.need for one in self._running)

    def _embeddings(self, pictures: list[FittedPicture]) -> dict[bytes, Tensor]:
        """Each picture's embeddings; those not encoded recently are encoded together."""
        distinct = {picture.digest: picture for picture in pictures}
        shown = {digest: found for digest in distinct if (found := self._pictures.get(digest)) is not None}
        new = [picture for digest, picture in distinct.items() if digest not in shown]
        for picture, embeddings in zip(new, self.answerer.embeddings(new, PICTURES), strict=True):
            shown[picture.digest] = embeddings
            self._pictures.put(picture.digest, embeddings)
        return shown
