"""How far each variant of a search has come: `<runs>/searches/<name>/rungs.jsonl`.

Two kinds of lines. `reached`: a variant's last stage run was validated at a share of its steps. `decided`: what the
search's rule made of it. The file is all that a search remembers of its rungs: a search that was killed reads it and
goes on, and `remora searches replay` asks what another rule would have decided.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from remora.files import lines

RUNGS = "rungs.jsonl"
Decision = Literal["pause", "promote", "stop", "go on"]


@dataclass(frozen=True)
class Reached:
    """A variant's last stage run at a share of its steps."""

    variant: str
    run: str
    """The stage run's name in the store."""
    stage: str
    """Its stage's name: only variants with the same last stage are compared."""
    share: float
    """Of the stage's steps, in (0, 1]."""
    step: int
    samples: int
    """Samples of the last stage that it has trained on."""
    figure: str
    """What was measured: `loss`, or a benchmark's name."""
    value: float
    higher: bool
    """Whether a higher value is better."""
    tokens: int = 0
    """Supervised tokens that a loss is the mean over; 0 of another figure."""
    of: str = ""
    """Digest of what it is measured on: held-out samples, or questions."""

    @property
    def merit(self) -> float:
        """Higher is better."""
        return self.value if self.higher else -self.value


@dataclass(frozen=True)
class Decided:
    """What a rule made of a variant at a share."""

    variant: str
    run: str
    stage: str
    share: float
    decision: Decision
    rule: str
    """The rule, in words."""
    place: int
    """The variant's place among those that reached the share, from 1."""
    among: int
    """How many had reached it by then."""


class Rungs:
    """What `rungs.jsonl` says, in order.

    Args:
        figure: Only what was measured in this figure counts; None for all.
        words: Only what was decided by the rule of these words counts: a space's rule may be another one by now.
    """

    def __init__(self, figure: str | None = None, words: str | None = None) -> None:
        self.figure, self.words = figure, words
        self.reached: dict[tuple[str, float], dict[str, Reached]] = {}
        """(stage, share) -> stage run's name -> what it reached there; the first line of each counts."""
        self.arrivals: list[Reached] = []
        """The same, in order."""
        self.decided: list[Decided] = []
        self.gone: set[str] = set()
        """Stage runs that failed later, or that the search's space has no more: nobody is compared with them."""
        self._rankings: dict[tuple[str, float], list[Reached]] = {}
        self._went_on: dict[tuple[str, float], set[str]] = {}
        self._newest: dict[str, Decided] = {}
        self._furthest: dict[str, Reached] = {}
        self._tail: lines.Tail | None = None
        """Of its file; a board follows one."""

    @classmethod
    def read(cls, path: Path, figure: str | None = None, words: str | None = None) -> Rungs:
        """Raises:
        StoreError: the file cannot be read.
        """
        board = cls(figure, words)
        board.follow(path)
        return board

    def follow(self, path: Path) -> None:
        """Take the lines that were added since."""
        self._tail = self._tail or lines.Tail(path, "event", _whole)
        for line in self._tail.new():
            self.take(_KINDS[line["event"]](**{k: v for k, v in line.items() if k not in ("event", "time")}))

    def take(self, line: Reached | Decided) -> None:
        at = line.stage, line.share
        if isinstance(line, Decided):
            if self.words not in (None, line.rule):
                return
            self.decided.append(line)
            self._newest[line.run] = line
            if line.decision in ("promote", "go on"):
                self._went_on.setdefault(at, set()).add(line.run)
        elif self.figure not in (None, line.figure):
            return
        elif (known := (there := self.reached.setdefault(at, {})).get(line.run)) is None or known.figure != line.figure:
            there[line.run] = line
            self.arrivals.append(line)
            insort(self._rankings.setdefault(at, []), line, key=lambda r: -r.merit)  # behind its equals
            if line.run not in self._furthest or self._furthest[line.run].share < line.share:
                self._furthest[line.run] = line

    def ranking(self, stage: str, share: float) -> list[Reached]:
        """Who reached a share, the best first; equals in the order in which they came."""
        ranking = self._rankings.get((stage, share), [])
        return [r for r in ranking if r.run not in self.gone] if self.gone else ranking

    def last(self, run: str) -> Reached | None:
        """The furthest that a stage run has come."""
        return self._furthest.get(run)

    def place(self, at: Reached) -> tuple[int, int] | None:
        """(place, of how many) among all that came there so far; None if the stage run is gone."""
        runs = [each.run for each in self.ranking(at.stage, at.share)]
        return (runs.index(at.run) + 1, len(runs)) if at.run in runs else None

    def went_on(self, stage: str, share: float) -> set[str]:
        """Stage runs that went on from a share."""
        return self._went_on.get((stage, share), set())

    def state(self, run: str) -> Decided | None:
        """The newest decision on a stage run."""
        return self._newest.get(run)


_KINDS: dict[str, type[Reached] | type[Decided]] = {"reached": Reached, "decided": Decided}
_FIELDS = {name: set(kind.__dataclass_fields__) for name, kind in _KINDS.items()}


def _whole(line: dict[str, object]) -> bool:
    return line.keys() - {"event", "time"} == _FIELDS.get(str(line.get("event")))


def write(path: Path, found: Iterable[Reached | Decided]) -> None:
    """Add lines; they are on disk when this returns.

    Raises:
        StoreError: the disk is full or read-only.
    """
    kinds = {kind: name for name, kind in _KINDS.items()}
    rows = [{"event": kinds[type(each)], "time": time.time(), **asdict(each)} for each in found]
    lines.append(path, rows, sync=True)
