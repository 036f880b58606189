"""The slots of a search: processes that perform its orders one after the other, each fed by a file of its own.

    slots = Slots(driver, folder)
    file = slots.open("slot-1")              # in this process; in the slot's own:
    for order in orders(file): …             # the next one as soon as there is one
    slots.performed("slot-1", order.number, performed)

A process that is kept for the next order needs no start and no imports of its own, which take seconds of a core.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from remora.errors import RemoraError, WorkerError
from remora.files import lines
from remora.pipeline.feed import LOOK_EVERY
from remora.pipeline.search.perform import Order, Performed, as_plain, read
from remora.spec import Space

log = logging.getLogger(__name__)
SELDOM = 1.0
"""Seconds between two looks of a slot that has waited for long."""


class OrderSource(Protocol):
    """What slots need of a search's driver."""

    @property
    def space(self) -> Space: ...

    @property
    def runs(self) -> Path: ...

    @property
    def over(self) -> bool: ...

    def look(self) -> None:
        """Raises:
        KeyboardInterrupt: somebody asked the search to stop.
        """

    def next(self) -> Order | None: ...

    def done(self, number: int, performed: Performed) -> None: ...

    def failed(self, number: int, error: RemoraError) -> None: ...


class Slots:
    """As the driver's process knows them. For one thread.

    Args:
        folder: Of their files; every node sees it.
    """

    def __init__(self, driver: OrderSource, folder: Path) -> None:
        self.driver, self.folder = driver, folder
        self.error: RemoraError | None = None
        """What the driver met; nothing is handed out after it."""
        self._at: dict[str, Order | None] = {}
        """Slot -> its order; None while it waits for one."""
        self._again: deque[Order] = deque()
        """Orders whose slot died."""
        self._deaths: Counter[int] = Counter()

    @property
    def over(self) -> bool:
        """Whether no slot is needed any more."""
        return self.error is not None or self.driver.over

    def open(self, name: str) -> Path | None:
        """A new slot with its first order: the file that it reads. None if there is nothing for it to do."""
        self.feed()
        if None in self._at.values() or (order := self._next()) is None:
            return None
        self._give(name, order)
        return self._file(name)

    def feed(self) -> None:
        """Give those that wait what is ready; once all is over, let them end."""
        for name in [name for name, order in self._at.items() if order is None]:
            if order := self._next():
                self._give(name, order)
            elif self.over:
                lines.append(self._file(name), [{"order": None}])
                del self._at[name]
            else:
                return

    def performed(self, name: str, number: int, result: Performed | RemoraError) -> None:
        """What a slot's order came to; it gets the next one."""
        self._at[name] = None
        self._tell(number, result)
        self.feed()

    def died(self, name: str) -> None:
        """A slot's process is gone. Another one is given its order, if that has not killed too many."""
        if (order := self._at.pop(name, None)) is None:
            return
        self._deaths[order.number] += 1
        if self._deaths[order.number] <= self.driver.space.cluster.max_failures:
            log.warning("%s: the process that performs it died; another one takes it over", order.run)
            self._again.append(order)
        else:
            why = f"the process that performs {order.run} died again and again; look at the memory of its node"
            self._tell(order.number, WorkerError(why))

    def _next(self) -> Order | None:
        if self.error:
            return None
        try:
            return self._again.popleft() if self._again else self.driver.next()
        except RemoraError as e:
            self.error = e
            return None

    def _tell(self, number: int, result: Performed | RemoraError) -> None:
        try:
            if isinstance(result, Performed):
                self.driver.done(number, result)
            else:
                self.driver.failed(number, result)
        except RemoraError as e:
            self.error = self.error or e

    def _give(self, name: str, order: Order) -> None:
        self._at[name] = order
        self.folder.mkdir(parents=True, exist_ok=True)
        lines.append(self._file(name), [{"order": as_plain(order)}])

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"


def orders(file: Path) -> Iterator[Order]:
    """Each order that a slot is given, waited for, until it is let go."""
    given, pause = lines.Tail(file, "order"), LOOK_EVERY
    while True:
        for line in given.new():
            if line["order"] is None:
                return
            yield read(line["order"])
            pause = LOOK_EVERY
        time.sleep(pause)
        pause = min(SELDOM, pause * 1.05)
