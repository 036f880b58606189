"""The queue in front of a model: requests wait for the one thread that runs it, which takes up to a batch of them.

It does not wait for a batch to fill: a batch is what arrived during the previous one. Every answer is returned as soon
as it is complete. No Ray here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remora.inference import Answer, Answerer, Request

LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _Waiting:
    """A client's queued requests, their answers so far, and the future that waits for them."""

    requests: tuple[Request, ...]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Answer]]
    answers: dict[int, Answer] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.answers) == len(self.requests)

    def tell(self, error: BaseException | None = None) -> None:
        """Hand over the answers or an error, from the model's thread. The client may be gone."""

        def told() -> None:
            if not self.future.done():
                if error is not None:
                    self.future.set_exception(error)
                else:
                    self.future.set_result([self.answers[i] for i in range(len(self.answers))])

        self.loop.call_soon_threadsafe(told)


class Line:
    """Takes requests from an event loop and gives each client its answers; one thread runs the model."""

    def __init__(self, answerer: Answerer, batch: int) -> None:
        self._answerer, self._batch = answerer, batch
        self._line: deque[_Waiting] = deque()
        self._change = threading.Condition()
        threading.Thread(target=self._run, name="model", daemon=True).start()

    async def answer(self, requests: tuple[Request, ...]) -> list[Answer]:
        """One answer for each of a client's requests. A cancelled caller leaves the queue.

        Raises:
            Exception: from the model.
        """
        loop = asyncio.get_running_loop()
        one = _Waiting(requests, loop, loop.create_future())
        with self._change:
            self._line.append(one)
            self._change.notify()
        return await one.future

    def _run(self) -> None:
        while True:
            batch = self._next()
            try:
                self._ask(batch)
            except Exception:  # the client gets any error of the model; this thread continues
                LOG.exception("the model failed on %d requests; each is asked alone", len(batch))
                for one in batch:  # one of them may be the cause
                    self._ask_by_itself(one)

    def _next(self) -> list[_Waiting]:
        """Wait for clients and take some: at least one, and no more answers than a batch has."""
        batch: list[_Waiting] = []
        rows = 0
        with self._change:
            while not batch:
                self._change.wait_for(lambda: self._line)
                while self._line and (not batch or rows + len(self._line[0].requests) <= self._batch):
                    one = self._line.popleft()
                    if not one.future.done():  # its client is gone
                        batch.append(one)
                        rows += len(one.requests)
        return batch

    def _ask(self, batch: Sequence[_Waiting]) -> None:
        rows = [(one, i) for one in batch for i in range(len(one.requests))]

        def done(row: int, answer: Answer) -> None:
            one, i = rows[row]
            one.answers[i] = answer
            if one.complete:
                one.tell()

        self._answerer.answer([one.requests[i] for one, i in rows], done)

    def _ask_by_itself(self, one: _Waiting) -> None:
        if one.complete:
            return
        try:
            self._ask([one])
        except Exception as error:  # noqa: BLE001 (handed to the waiting client)
            one.tell(error)
