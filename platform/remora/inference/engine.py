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
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from remora.inference.generation import Generation
from remora.inference.pictures import PICTURES
from remora.inference.requests import Event, Request, Stats
from remora.inference.rows import EngineLimits, EqualRows, RunningRows, SlotRows
from remora.inference.sampling import choose, logprobs

if TYPE_CHECKING:
    from remora.inference.answerer import Answerer

ROWS = 64
"""Maximum number of requests that decode together."""
CACHE_BYTES = 2 << 30
"""Bytes for keys and values: those of running requests, with room for their longest answers, and cached prefixes. The
batch size 1 cache of a request with a near tie is extra."""
CHUNK = 512
"""Tokens of prompts that a step reads if nobody waits for the next token: they keep a CPU busy, and their activations
stay in its cache."""


class AnswerEngine:
    """Answers requests with an Answerer's model, first come first served, each as at batch size 1.

    At most `rows` run together, and their keys and values have at most `cache_bytes` (a request that needs more runs
    alone). A request that ends or is cancelled frees its memory at once.

    If the model's cache takes rows of unequal lengths, a step reads at most `chunk` tokens of prompts and encodes at
    most `pictures` pictures beside the rows that decode, so these never wait longer; what a prompt has in common with
    an earlier one (template, pictures) is copied. Otherwise prompts of equal length are read whole and start together.
    """

    def __init__(
        self,
        answerer: Answerer,
        rows: int = ROWS,
        cache_bytes: int = CACHE_BYTES,
        chunk: int = CHUNK,
        pictures: int = PICTURES,
    ) -> None:
        self.answerer = answerer
        self._near = answerer.near
        self._waiting: deque[Generation] = deque()
        limits = EngineLimits(rows, cache_bytes, chunk, pictures)
        self._rows: RunningRows = SlotRows(answerer, limits) if answerer.joins else EqualRows(answerer, limits)
        self._undecided: dict[Generation, Tensor] = {}
        """Near ties, and their logits [V] in the batch; each step goes on with the first."""
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
        if gone := [one for one in self._rows.running if one.number == number]:
            self._undecided.pop(gone[0], None)
            self._rows.leave(gone)

    def waits(self, number: int) -> bool:
        """Whether no step has begun with a request."""
        return any(one.number == number for one in self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a request waits or runs."""
        return bool(self._waiting or self._rows.running)

    @property
    def stats(self) -> Stats:
        need = sum(one.need for one in self._waiting)
        counts = (self._prompt_tokens, self._shared_tokens, self._answer_tokens, self._near_ties)
        return Stats(len(self._waiting), len(self._rows.running), need, *counts, self._rows.cache_bytes)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Generate one token for each running request whose prompt is read, and read more of the others' prompts.

        A near tie costs the others one pass at batch size 1 a step, until it is decided.
        """
        events = [
            event
            for ones, logits in self._rows.step(self._waiting, self._undecided)
            for event in self._say(ones, logits)
        ]
        if self._undecided:
            one = next(iter(self._undecided))
            token = one.listen()
            if token is not None:
                self._near_ties += 1
                events.append(self._told(one, token, self._undecided.pop(one)))
        return events

    def _say(self, ones: list[Generation], logits: Tensor) -> list[Event]:
        """Choose the next tokens of requests by their logits [B, V]; near ties stay undecided where they may."""
        tokens, ties = choose(logits, ones, self._near)
        events: list[Event] = []
        for one, token, tie, row in zip(ones, tokens, ties, logits, strict=True):
            if tie and self._rows.pauses:
                self._undecided[one] = row.clone()
            else:
                self._near_ties += tie
                events.append(self._told(one, one.exact() if tie else token, row))
        return events

    def _told(self, one: Generation, token: int, logits: Tensor) -> Event:
        """Say a request's next token; it leaves with its last."""
        if len(one.said) == len(one.request.said):  # its first
            self._prompt_tokens += len(one.prompt.ids)
            self._shared_tokens += one.cached
        answer = one.say(token)
        self._answer_tokens += 1
        best = one.request.top_logprobs
        found = None if best is None else logprobs(logits, token, best)
        if answer is not None:
            self._rows.leave([one])
        return Event(one.number, token, answer, found, one.cached)
