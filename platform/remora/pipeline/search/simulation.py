"""A search in simulated time: the same state machine, asked by slots that only let time pass.

    Simulation(trials, rule, store, slots=4).go()

Plans take their makespans from it (`remora.planning.makespan`), tests and benchmarks what a search repeats or loses
when its workers and its process are killed.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from remora.pipeline.search.board import Decided, Decision, Reached, Rungs, write
from remora.pipeline.search.rules import Everyone, StoppingRule
from remora.pipeline.search.samplers import Listed
from remora.pipeline.search.work import Measure, Train, Trial, TrialSource, Work, WorkItem
from remora.runs import StageRun
from remora.spec import step_at


@dataclass
class SimulatedStore:
    """Stage runs as far as they were trained, and what that took."""

    lengths: Mapping[str, int]
    """Stage run's id -> its steps."""
    costs: Mapping[str, float]
    """Stage run's id -> the seconds that a slot needs for the whole of it."""
    there: frozenset[str] = frozenset()
    """Ids of those that are published before the search."""
    steps: Counter[str] = field(default_factory=Counter)
    """Of each stage run, those in its newest checkpoint."""
    published: Counter[str] = field(default_factory=Counter)
    """How often each was published by the search."""
    paid: int = 0
    """Steps that were taken, with those that a death lost."""
    deaths: int = 0
    """Times that a slot died while it trained, by itself or with the search's process."""
    lost: int = 0
    """Steps between a stage run's newest checkpoint and such a death."""
    busy: float = 0.0
    """Seconds that slots trained."""
    held: set[str] = field(default_factory=set)
    """Stage runs that others train."""

    def finished(self, run: StageRun) -> bool:
        return run.id in self.there or bool(self.published[run.id])

    def elsewhere(self, run: StageRun) -> bool:
        return run.id in self.held

    def cost(self, run: StageRun) -> float:
        return self.costs[run.id]

    def logged(self, trial: Trial) -> Sequence[Reached]:
        return ()  # what is there was validated at no rung


def by_chance(run: StageRun, share: float) -> float:
    """How good a stage run is at any rung, as a function of its name."""
    return random.Random(run.name).random()


@dataclass
class _Begun:
    """An item that a slot is at."""

    item: WorkItem
    began: float
    ends: float
    at: int = 0
    """The step that it began at."""
    reached: int = 0
    to: int = 0
    """The step that it was to go to; `reached` is less if the slot dies."""


@dataclass
class Simulation:
    """Slots that take items from a `Work`; time passes as steps are taken."""

    trials: Iterable[Trial]
    rule: StoppingRule
    store: SimulatedStore
    slots: int
    board: Path | None = None
    """`rungs.jsonl`; without one, rungs are kept in memory, and a new driver finds none."""
    known: bool = True
    """Whether all trials are known beforehand, as they are unless Optuna draws them."""
    merit: Callable[[StageRun, float], float] = by_chance
    """Of a stage run at a share of it; higher is better."""
    before: Sequence[Reached | Decided] = ()
    """What its board has from the start; without a board's file."""
    most: int | None = None
    """Trials that are taken up; None for all."""
    measure: float = 0.0
    """Seconds that a measurement takes."""
    kill: float = 0.0
    """Chance that a slot dies within an item of training."""
    checkpoint: int = 10
    """Steps between two checkpoints: what a death can cost."""
    seed: int = 0
    clock: float = 0.0
    measured: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.trials = list(self.trials)
        self.dice = random.Random(self.seed)

    def source(self) -> TrialSource:
        """Its trials, for a new driver."""
        source = Listed(Trial(t.name, t.variant, t.lineage, t.choice) for t in self.trials)
        source.closed = self.known
        return source

    def found(self, trial: Trial) -> None:
        """A trial was measured; nothing comes of it."""

    def driver(self) -> Work:
        """The search as a new driver finds it."""
        return Work(self.source(), self.rule, self.store, self.board, self.most, self.before)

    def go(self, most: float = float("inf")) -> Work:
        """Until nothing is left, or such a time has come: then all that runs dies with its driver."""
        work, number = self.driver(), count()
        going: list[tuple[float, int, _Begun]] = []

        def start(item: WorkItem) -> None:
            begun = _Begun(item, self.clock, self.clock + self.measure)
            if isinstance(item, Train):
                self._train(item, begun, work.board)
            heapq.heappush(going, (begun.ends, next(number), begun))

        while True:
            while len(going) < self.slots and (item := work.next()):
                start(item)
            if not going:
                assert work.over
                return work
            if going[0][0] > most:
                self.clock = most
                for _, _, begun in going:
                    self._cut(begun)
                return work
            self.clock, _, begun = heapq.heappop(going)
            item = begun.item
            if isinstance(item, Measure):
                self.measured[item.trial.name] += 1
                self.found(item.trial)
                work.done(item)
                continue
            run = item.run
            self._took(run, begun.at, begun.reached, begun.to)
            if begun.reached < begun.to:
                work.lost(item)
            elif begun.to == self.store.lengths[run.id]:
                self.store.published[run.id] += 1
                if item.last and self.rule.rungs:
                    self._reach(work.board, run, 1.0, Everyone())
                work.done(item, "trained")
            elif self._reach(work.board, run, self._shares(run)[begun.to], self.rule) == "go on":
                start(item)
            else:
                work.done(item, "paused")

    def _train(self, item: Train, begun: _Begun, board: Rungs) -> None:
        """Up to which step it goes, and when it will be there; or a slot that dies on the way."""
        run, store = item.run, self.store
        at, whole = store.steps[run.id], store.lengths[run.id]
        shares = self._shares(run) if item.last else {}
        state = board.state(run.name) if item.last else None
        ahead = (step for step, share in shares.items() if step >= at and (not state or share > state.share))
        to = next(ahead, whole)
        dies = at < to and self.dice.random() < self.kill
        begun.at, begun.to, begun.reached = at, to, self.dice.randint(at, to - 1) if dies else to
        begun.ends = begun.began + store.costs[run.id] * (begun.reached - at) / whole

    def _cut(self, begun: _Begun) -> None:
        """An item dies with the driver, now."""
        if isinstance(begun.item, Train) and begun.ends > begun.began:
            share = (self.clock - begun.began) / (begun.ends - begun.began)
            self._took(begun.item.run, begun.at, begun.at + int(share * (begun.reached - begun.at)), begun.to)

    def _took(self, run: StageRun, at: int, reached: int, to: int) -> None:
        """A slot trained from one step to another; short of where it should go, its newest checkpoint is left."""
        store = self.store
        store.paid += reached - at
        store.busy += store.costs[run.id] * (reached - at) / store.lengths[run.id]
        store.steps[run.id] = to if reached == to else max(at, reached // self.checkpoint * self.checkpoint)
        store.deaths += reached != to
        store.lost += reached - store.steps[run.id]

    def _shares(self, run: StageRun) -> dict[int, float]:
        return {step_at(share, self.store.lengths[run.id]): share for share in self.rule.rungs}

    def _reach(self, board: Rungs, run: StageRun, share: float, rule: StoppingRule) -> Decision:
        """What a worker writes at a rung."""
        step, name, stage = step_at(share, self.store.lengths[run.id]), run.name, run.stage.name
        found = Reached(name, name, stage, share, step, 0, self.rule.figure, self.merit(run, share), True)
        self._add(board, found)
        made = rule.at(board, found)
        place = board.place(found)
        assert place, "it was just added"
        self._add(board, Decided(name, name, stage, share, made, rule.words, *place))
        return made

    def _add(self, board: Rungs, line: Reached | Decided) -> None:
        if self.board:
            write(self.board, [line])
            board.follow(self.board)
        else:
            board.take(line)
