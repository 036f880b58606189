"""Leases at a URL: one node does a piece of work, and another goes on when it is dead.

    <url>/<key>.lease/00000003.json     who has it for the third time, and a count that its holder raises

A lease is taken by creating the next number, which one node alone can. Its holder rewrites its own object every few
seconds. A node that has seen the same content for LAPSE seconds of its own clock takes the holder for dead; no two
clocks are compared. A holder that was only slow finds a higher number and has lost it. It may then do its work to the
end, since equal identities have equal results, and of two results the first is published.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

from remora.errors import StoreError
from remora.processes import meanwhile
from remora.sharing.objects import Objects

log = logging.getLogger(__name__)
LAPSE = 60.0
"""Seconds without a sign of life after which a holder is taken for dead."""
BEATS = 4
"""Signs of life in that time."""
POLL = 1.0
"""Seconds between two looks at a lease that another node has."""


@dataclass(frozen=True)
class LeaseContent:
    """The content of a lease's object."""

    holder: str
    node: str
    token: str
    """New each time that the lease is taken."""
    beat: int = 0
    over: bool = False

    def encoded(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class SharedLeases:
    """The leases of a run folder at a URL, as one node sees them."""

    def __init__(self, objects: Objects, node: str) -> None:
        self.objects, self.node = objects, node
        self._seen: dict[str, tuple[int, bytes, float]] = {}
        """Key -> number and content of its lease, and since when this process sees that."""

    def elsewhere(self, key: str) -> bool:
        """Whether another node has the lease and shows signs of life."""
        return self._holder(key)[1] is not None

    @contextlib.contextmanager
    def hold(
        self, key: str, waiting: Callable[[str], None] = lambda holder: None, enough: Callable[[], bool] = lambda: False
    ) -> Iterator[LeaseHeld | None]:
        """Hold the lease during the block. The caller has a local lock: of a node, one process at a time asks.

        While another node has it, `waiting` is called once with its description. If `enough()` becomes true, the wait
        ends and this yields None.
        """
        told = False
        while True:
            number, holder = self._holder(key)
            if holder is None:
                if held := self._taken(key, number + 1):
                    break
                continue
            if enough():
                yield None
                return
            if not told:
                waiting(holder)
                told = True
            time.sleep(POLL)
        with held.alive():
            yield held

    def _holder(self, key: str) -> tuple[int, str | None]:
        """The lease's number, 0 if nobody ever had it, and who has it; None if it can be taken."""
        number = self.number(key)
        data = self.objects.read(_place(key, number)) if number else None
        if data is None:
            return number, None
        before, now = self._seen.get(key), time.monotonic()
        if before is None or before[:2] != (number, data):
            self._seen[key] = before = (number, data, now)
        try:
            said = LeaseContent(**json.loads(data))
        except (ValueError, TypeError):
            raise StoreError(f"{self.objects.url}/{_place(key, number)}: unreadable; delete it") from None
        # Another process of this node that lived would have the node's own lock.
        free = said.over or said.node == self.node or now - before[2] >= LAPSE
        return number, None if free else said.holder

    def number(self, key: str) -> int:
        """How often it was taken."""
        numbers = [name.partition(".")[0] for name in self.objects.names(f"{key}.lease")]
        return max((int(n) for n in numbers if n.isdigit()), default=0)

    def _taken(self, key: str, number: int) -> LeaseHeld | None:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        who = f"process {os.getpid()} on {socket.gethostname()}, since {since}"
        mine = LeaseContent(who, self.node, uuid.uuid4().hex)
        if not self.objects.create(_place(key, number), mine.encoded()):
            return None
        if self.number(key) != number:  # its object had been deleted: somebody else was there long before
            return None
        for old in range(max(1, number - BEATS), number):
            self.objects.remove(_place(key, old))
        return LeaseHeld(self, key, number, mine)


class LeaseHeld:
    """A lease that this process has."""

    def __init__(self, leases: SharedLeases, key: str, number: int, mine: LeaseContent) -> None:
        self.key, self.number = key, number
        self._leases, self._mine = leases, mine
        self.lost = False

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Show signs of life during the block, then give it back."""
        try:
            with meanwhile(self._beat, LAPSE / BEATS, "lease"):
                yield
        finally:
            if not self.lost:
                try:
                    self._say(replace(self._mine, over=True))
                except StoreError as e:
                    log.warning("%s: the lease is not given back, it lapses in %.0f s: %s", self.key, LAPSE, e)

    def _beat(self) -> bool:
        """Show a sign of life; whether the lease is lost."""
        try:
            if self._leases.number(self.key) != self.number:
                self.lost = True
                log.warning("%s: another node took over, since the store was not reached in time", self.key)
            else:
                self._mine = replace(self._mine, beat=self._mine.beat + 1)
                self._say(self._mine)
        except StoreError as e:
            log.warning("%s: the lease could not be renewed, it is tried again: %s", self.key, e)
        return self.lost

    def _say(self, content: LeaseContent) -> None:
        self._leases.objects.write(_place(self.key, self.number), content.encoded())


def _place(key: str, number: int) -> str:
    return f"{key}.lease/{number:08d}.json"
