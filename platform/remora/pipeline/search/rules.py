"""Which variants of a search go on: a rule decides at rungs, which are shares of a variant's last stage.

Successive halving as in ASHA (Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, algorithm
2), with two differences. Everyone pauses at a rung and may be promoted at any later time, since a checkpoint is kept.
And where the trials are known beforehand, nobody is promoted as long as somebody can still be brought to the rung: this
is synchronous halving, which never pays for a promotion that later results would not have given.
The median rule is Vizier's (Golovin et al., KDD 2017, section 3.2.1) on the value at the rung.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Protocol

from remora.pipeline.search.board import Decision, Reached, Rungs
from remora.runs.rungs import LOSS


class StoppingRule(Protocol):
    """Decides who goes on. It reads the board and keeps nothing, so a decision can be made again."""

    @property
    def rungs(self) -> tuple[float, ...]:
        """Shares of the last stage at which it decides, in (0, 1), ascending."""

    @property
    def words(self) -> str:
        """All that its decisions follow from. Those that were made by other words are not its own."""

    @property
    def figure(self) -> str:
        """What it compares: `loss`, or a benchmark's name."""

    def at(self, board: Rungs, reached: Reached) -> Decision:
        """What becomes of a variant that reached a rung, which the board knows already."""

    def promote(self, board: Rungs, stage: str, share: float, complete: bool) -> Reached | None:
        """The variant that is to go on from a rung, if one is.

        Args:
            complete: Nobody else will reach this rung.
        """


@dataclass(frozen=True)
class Everyone:
    """No rule: all variants are trained to their end."""

    rungs: tuple[float, ...] = ()
    words: str = "none"
    figure: str = LOSS

    def at(self, board: Rungs, reached: Reached) -> Decision:
        return "go on"

    def promote(self, board: Rungs, stage: str, share: float, complete: bool) -> Reached | None:
        return None


@dataclass(frozen=True)
class Halving:
    """Of those that reach a rung, the best 1/eta go on."""

    eta: int
    rungs: tuple[float, ...]
    figure: str = LOSS

    @classmethod
    def of(cls, eta: int, first: float, figure: str = LOSS) -> Halving:
        """Rungs at first, first x eta, … below the whole stage."""
        rungs = []
        while first < 1 - 1e-9:
            rungs.append(round(first, 6))
            first *= eta
        return cls(eta, tuple(rungs), figure)

    @property
    def words(self) -> str:
        return f"halving by {self.figure}, eta {self.eta}, from {self.rungs[0]:.4g}"

    def at(self, board: Rungs, reached: Reached) -> Decision:
        return "pause"

    def promote(self, board: Rungs, stage: str, share: float, complete: bool) -> Reached | None:
        ranking = board.ranking(stage, share)
        places = len(ranking) // self.eta
        if complete and ranking:
            places = max(1, places)
        gone = board.went_on(stage, share)
        return next((r for r in ranking[:places] if r.run not in gone), None)


@dataclass(frozen=True)
class Median:
    """Who is worse than the median of the others at a rung stops."""

    rungs: tuple[float, ...]
    least: int = 3
    """Others that must have reached the rung before anyone is stopped there."""
    figure: str = LOSS

    @property
    def words(self) -> str:
        return f"median of {self.figure}, of {self.least} others, from {self.rungs[0]:.4g}"

    def at(self, board: Rungs, reached: Reached) -> Decision:
        others = [r.merit for r in board.ranking(reached.stage, reached.share) if r.run != reached.run]
        return "stop" if len(others) >= self.least and reached.merit < median(others) else "go on"

    def promote(self, board: Rungs, stage: str, share: float, complete: bool) -> Reached | None:
        return None
