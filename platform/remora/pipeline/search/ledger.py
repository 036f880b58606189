"""What a search did and what it cost: `<runs>/searches/<name>/ledger.jsonl`.

One line when an item begins, one when it ends. An item without a second line was lost with its process; the next
command writes the line that is missing, with what the item had done by then.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from remora.files import lines
from remora.spec import Cluster

LEDGER = "ledger.jsonl"


@dataclass(frozen=True)
class Entry:
    """An item that was begun."""

    number: int
    kind: str
    """train | measure"""
    run: str
    """The stage run; of a measurement the one that was measured."""
    variant: str
    began: float
    """Seconds since 1970."""
    ended: float | None = None
    how: str = "lost"
    """trained | reused | paused | measured | failed; lost, while it has not ended."""
    steps: int = 0
    """Optimiser steps that were taken."""
    again: int = 0
    """Those among them that had been taken before, and were lost with a process."""
    at: int | None = None
    """Steps that had ever been taken of the stage run when the item began."""


class Ledger:
    """The ledger of one search, through all the commands that worked at it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._began = time.time()
        self._open: dict[int, float] = {}
        self._at: dict[int, int] = {}
        self._past = self.entries(path)
        self._next = max((e.number for e in self._past), default=-1) + 1
        self.steps = sum(e.steps for e in self._past)
        """Optimiser steps of all items."""
        self._busy = sum(e.ended - e.began for e in self._past if e.ended)
        """Their seconds."""

    @staticmethod
    def entries(path: Path) -> list[Entry]:
        """Every item that was begun, in order.

        Raises:
            StoreError: the file cannot be read.
        """
        found: dict[int, Entry] = {}
        for line in lines.read(path, "event", _whole).records:
            said = {k: v for k, v in line.items() if k not in ("event", "time")}
            number = said.pop("number")
            if line["event"] == "began":
                found[number] = Entry(number, began=line["time"], **said)
            elif number in found:
                found[number] = Entry(**{**vars(found[number]), "ended": line["time"], **said})
        return _with_lost(list(found.values()))

    def begin(self, kind: str, run: str, variant: str, at: int = 0) -> int:
        """The number of an item that begins; `at` steps of its stage run had ever been taken."""
        number, self._next = self._next, self._next + 1
        self._open[number], self._at[number] = time.time(), at
        self._add("began", number, kind=kind, run=run, variant=variant, at=at)
        return number

    def end(self, number: int, how: str, steps: int = 0, again: int = 0, at: int | None = None) -> None:
        """The item ended. `at` corrects what `begin` was given, if it went on from another node's checkpoint."""
        known = {} if at is None or at == self._at[number] else {"at": at}
        self._add("ended", number, how=how, steps=steps, again=again, **known)
        self.steps += steps
        self._busy += time.time() - self._open.pop(number)

    def began_at(self, number: int) -> int:
        """Steps that had ever been taken of the stage run when the item began."""
        return self._at[number]

    @property
    def lost(self) -> list[Entry]:
        """Items of earlier commands that have not ended."""
        return [e for e in self._past if e.ended is None]

    def bury(self, entry: Entry, steps: int, ended: float) -> None:
        """A lost item had taken so many steps when its process died, and then it ended."""
        ended = max(ended, entry.began)
        self._write("ended", ended, entry.number, how="lost", steps=steps)
        self._past = [replace(e, ended=ended, steps=steps) if e is entry else e for e in self._past]
        self.steps += steps - entry.steps
        self._busy += ended - entry.began

    def gpu_hours(self, cluster: Cluster) -> float:
        """Of all items that ended, and of those that are going on."""
        busy = self._busy + sum(time.time() - began for began in self._open.values())
        return busy / 3600 * cluster.least_workers * cluster.gpus_per_worker

    @property
    def hours(self) -> float:
        """By the clock, of this command and of those before it."""
        before = [(e.began, e.ended or e.began) for e in self._past]
        return (sum(_united(before)) + time.time() - self._began) / 3600

    def _add(self, event: str, number: int, **fields: object) -> None:
        self._write(event, time.time(), number, **fields)

    def _write(self, event: str, when: float, number: int, **fields: object) -> None:
        lines.append(self.path, [{"event": event, "time": when, "number": number, **fields}])


def _united(spans: list[tuple[float, float]]) -> list[float]:
    """Lengths of the times that spans cover together."""
    found: list[float] = []
    until = float("-inf")
    for began, ended in sorted(spans):
        found.append(max(0.0, ended - max(began, until)))
        until = max(until, ended)
    return found


def _with_lost(entries: list[Entry]) -> list[Entry]:
    """Items without an end with the steps that they took: up to where the next one of their stage run began."""
    found: list[Entry] = []
    following: dict[str, int] = {}
    for e in reversed(entries):
        if e.kind == "train" and e.at is not None:
            lost = following.get(e.run, e.at) - e.at if e.ended is None else 0
            following[e.run] = e.at
            e = replace(e, steps=e.steps + lost)
        found.append(e)
    return found[::-1]


_NEEDS = {"began": {"number", "kind", "run", "variant"}, "ended": {"number", "how", "steps"}}
_LATER = {"event", "time", "at", "again"}
"""Keys that some lines do without."""


def _whole(line: Mapping[str, object]) -> bool:
    return line.keys() - _LATER == _NEEDS.get(str(line.get("event"))) and isinstance(line.get("time"), float)
