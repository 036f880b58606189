"""A search in simulated time: synthetic trials over a forest of stages, slots that work, die and go on."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from remora.pipeline.search.board import Decided, Decision, Reached, Rungs, write
from remora.pipeline.search.rules import Everyone, StoppingRule
from remora.pipeline.search.work import Measure, Train, Trial, Work, WorkItem
from remora.spec import step_at


@dataclass(frozen=True)
class Run:
    """What `Work` needs of a stage run."""

    id: str
    stage: Any
    parent: Run | None
    steps: int

    @property
    def name(self) -> str:
        return self.id


def trial(*path: tuple[str, str, int]) -> Trial:
    """A trial of (stage, what is chosen there, steps): a stage run is named by all choices up to it."""
    run: Run | None = None
    lineage = []
    for stage, choice, steps in path:
        run = Run(f"{run.id}/{choice}" if run else choice, SimpleNamespace(name=stage), run, steps)
        lineage.append(run)
    assert run
    return Trial(run.id, None, tuple(lineage))  # type: ignore[arg-type]


def merit(run: str) -> float:
    """How good a stage run is, as a function of its name."""
    return random.Random(run).random()


class Listed:
    """A sampler of trials that are known beforehand."""

    closed = True

    def __init__(self, trials: list[Trial]) -> None:
        self.left = [Trial(t.name, t.variant, t.lineage) for t in trials]

    def ask(self) -> Trial | None:
        return self.left.pop(0) if self.left else None

    def tell(self, trial: Trial, reached: Reached | None) -> None:
        pass


@dataclass
class World:
    """A store that outlives its drivers, and what training has cost."""

    steps: Counter[str] = field(default_factory=Counter)
    """Of each stage run, those in its newest checkpoint."""
    published: Counter[str] = field(default_factory=Counter)
    """How often each stage run was published."""
    paid: int = 0
    """Steps that were taken, with those that a kill lost."""
    held: set[str] = field(default_factory=set)
    """Stage runs that others train."""

    def finished(self, run: Run) -> bool:
        return bool(self.published[run.id])

    def elsewhere(self, run: Run) -> bool:
        return run.id in self.held

    def cost(self, run: Run) -> float:
        return run.steps


def reach(file: Path, board: Rungs, run: Run, share: float, rule: StoppingRule) -> Decision:
    """Write what a worker writes at a rung."""
    step = step_at(share, run.steps)
    found = Reached(run.name, run.name, run.stage.name, share, step, 0, "f", merit(run.name), True)
    write(file, [found])
    board.follow(file)
    made = rule.at(board, found)
    ranking = [r.run for r in board.ranking(run.stage.name, share)]
    place = ranking.index(run.name) + 1
    write(file, [Decided(run.name, run.name, run.stage.name, share, made, rule.words, place, len(ranking))])
    return made


@dataclass
class Simulation:
    """Slots that take items from a `Work`; time passes as steps are taken."""

    trials: list[Trial]
    rule: StoppingRule
    board: Path
    slots: int
    kill: float = 0.0
    """Chance that a slot dies within an item of training."""
    checkpoint: int = 10
    """Steps between two checkpoints: what a death can cost."""
    seed: int = 0
    measure: float = 5.0
    """Time that a measurement takes, in steps."""
    world: World = field(default_factory=World)
    clock: float = 0.0
    measured: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.known = Rungs()

    def driver(self) -> Work:
        """The search as a new driver finds it."""
        return Work(Listed(self.trials), self.rule, self.world, self.board)  # type: ignore[arg-type]

    def go(self, most: float = float("inf")) -> Work:
        """Until nothing is left, or such a time has come: then all that runs dies with its driver."""
        work, going, number = self.driver(), [], count()

        def start(item: WorkItem) -> None:
            length, to = (self.measure, 0) if isinstance(item, Measure) else self._train(item)
            heapq.heappush(going, (self.clock + length, next(number), item, to))

        while True:
            while len(going) < self.slots and (item := work.next()):
                start(item)
            if not going:
                assert work.over
                return work
            self.clock, _, item, to = heapq.heappop(going)
            if self.clock > most:
                return work
            if isinstance(item, Measure):
                self.measured[item.trial.name] += 1
                work.done(item)
            elif self.world.steps[item.run.id] < to:
                work.lost(item)
            elif to == item.run.steps:
                self.world.published[item.run.id] += 1
                if item.last:
                    reach(self.board, self.known, item.run, 1.0, Everyone())
                work.done(item, "trained")
            elif reach(self.board, self.known, item.run, self._shares(item.run)[to], self.rule) == "go on":
                start(item)
            else:
                work.done(item, "paused")

    def _train(self, item: Train) -> tuple[float, int]:
        """How long it takes, and up to which step; a slot that dies leaves its newest checkpoint."""
        run, at = item.run, self.world.steps[item.run.id]
        shares = self._shares(run) if item.last else {}
        self.known.follow(self.board)
        state = self.known.state(run.name) if item.last else None
        to = next((step for step, share in shares.items() if not state or share > state.share), run.steps)
        reached = self.dice.randint(at, to - 1) if at < to and self.dice.random() < self.kill else to
        self.world.paid += reached - at
        self.world.steps[run.id] = to if reached == to else max(at, reached // self.checkpoint * self.checkpoint)
        return reached - at, to

    def _shares(self, run: Run) -> dict[int, float]:
        return {step_at(share, run.steps): share for share in self.rule.rungs}
