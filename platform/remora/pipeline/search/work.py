"""The work that a search has left, and its order: a state machine that free workers ask for their next item.

    work = Work(sampler, rule, world, board_file)
    while item := work.next():       # None: nothing now; `work.over`: nothing ever
        work.done(item, perform(item))

Items are stage runs and measurements, not trials: a variant that waits for another's stage run takes no room. Nothing
is remembered but in the board, the store and the sampler's file: a search that was killed is built anew from them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from remora.pipeline.search.board import Decided, Decision, Reached, Rungs, write
from remora.pipeline.search.rules import StoppingRule
from remora.pipeline.search.schedule import Schedule
from remora.runs import StageRun
from remora.spec import Variant

TrialState = Literal["waiting", "paused", "stopped", "trained", "finished", "failed"]
ItemEnd = Literal["trained", "reused", "paused"]
"""How an item of training ended: published by us or by somebody else, or left at a rung, as the board says."""


@dataclass(eq=False)
class Trial:
    """A variant of the search and how it fares."""

    name: str
    variant: Variant
    lineage: tuple[StageRun, ...]
    choice: Mapping[str, object] = field(default_factory=dict)
    """Axis -> value."""
    state: TrialState = "waiting"
    stages: dict[str, str] = field(default_factory=dict)
    """Stage run's name -> trained | reused, as they come to be."""
    error: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    """What was measured and counted of it (`objectives.figures_of`)."""

    @property
    def last(self) -> StageRun:
        return self.lineage[-1]


@dataclass(frozen=True, eq=False)
class Train:
    """A stage run to train from where it stands, for the first of the trials that need it."""

    run: StageRun
    trial: Trial
    last: bool
    """Whether it is its trial's last stage run, which has rungs."""


@dataclass(frozen=True, eq=False)
class Measure:
    """A trained trial to ask its benchmarks."""

    trial: Trial


WorkItem = Train | Measure


class TrialSource(Protocol):
    """Says which variants there are."""

    @property
    def closed(self) -> bool:
        """Whether its trials do not depend on results."""

    @property
    def left(self) -> int:
        """Trials that it has, or may have, besides those that it gave."""

    def ask(self) -> Trial | None:
        """The next trial; None if there are no more."""

    def tell(self, trial: Trial, reached: Reached | None) -> None:
        """What became of a trial: paused or stopped where `reached` says, measured, or failed."""


class World(Protocol):
    """What the work stands in: the store."""

    def finished(self, run: StageRun) -> bool: ...

    def elsewhere(self, run: StageRun) -> bool:
        """Whether somebody else trains it now."""

    def cost(self, run: StageRun) -> float:
        """Of the whole stage run, in any unit: what is compared are paths of one search."""

    def logged(self, trial: Trial) -> Sequence[Reached]:
        """What the published last stage run of a trial logged while it was trained, in the rule's figure."""


class Work:
    """The search's items, handed out one at a time. Not for several threads."""

    def __init__(
        self,
        sampler: TrialSource,
        rule: StoppingRule,
        world: World,
        board: Path | None,
        most: int | None = None,
        before: Iterable[Reached | Decided] = (),
    ) -> None:
        """Without a file for its `board`, rungs are kept in memory: for simulations; they begin with those `before`.
        `most`: trials that are taken up; None for all."""
        self.sampler, self.rule, self.world, self.most = sampler, rule, world, most
        self.board_file, self.board = board, Rungs(rule.figure, rule.words)
        if board:
            self.board.follow(board)
        for line in before:
            self.board.take(line)
        self.board.gone |= {at.run for at in self.board.arrivals}  # until their trials are taken up
        self.trials: dict[str, Trial] = {}
        self.exhausted = False
        """Whether no more trials are taken up: the sampler has none, or `most` are."""
        self.stop = ""
        """Why nothing more is trained, if that is so."""
        self.over = False
        """Whether nothing is left, and nothing runs that could bring more."""
        self._schedule: Schedule[str] = Schedule()
        self._runs: dict[str, StageRun] = {}
        self._lasts: dict[str, StageRun] = {}
        """Last stage runs by their names."""
        self._on_the_way: dict[str, set[str]] = {}
        """Last stage -> its stage runs that nobody has ended: names."""
        self._users: dict[str, list[Trial]] = {}
        self._elsewhere: set[str] = set()
        self._running: set[WorkItem] = set()
        self._measures: deque[Trial] = deque()
        if sampler.closed:
            while self._ask():
                pass

    def users(self, run: StageRun) -> list[Trial]:
        """The trials that need a stage run."""
        return self._users[run.id]

    def next(self) -> WorkItem | None:
        """What is to be done now; None if all of it waits for what is running, or nothing is left."""
        self._look_elsewhere()
        if not self.sampler.closed and self._measures:
            return self._start(Measure(self._measures.popleft()))
        while not self.stop:
            if item := self._train():
                return self._start(item)
            if not (self._ask() or self._promote()):
                break
        if self._measures:
            return self._start(Measure(self._measures.popleft()))
        self.over = not self._running and (bool(self.stop) or not self._elsewhere)
        return None

    def done(self, item: WorkItem, ended: ItemEnd = "trained") -> None:
        """An item is done; `ended` says how, of one of training."""
        self._running.discard(item)
        if isinstance(item, Measure):
            self._become(item.trial, "finished")
            self.sampler.tell(item.trial, self.board.last(item.trial.last.name))
            return
        self._look_at_board()
        if ended in ("trained", "reused"):
            self._trained(item.run, item.trial if ended == "trained" else None)
            return
        self._schedule.pause(item.run.id)
        decided = self.board.state(item.run.name)
        for trial in self._users[item.run.id]:
            self._become(trial, "stopped" if decided and decided.decision == "stop" else "paused")
            self.sampler.tell(trial, self.board.last(item.run.name))

    def lost(self, item: WorkItem) -> None:
        """An item's worker died: it is to be done again, from its last checkpoint."""
        self._running.discard(item)
        if isinstance(item, Measure):
            self._measures.appendleft(item.trial)
        else:
            self._schedule.put_back(item.run.id)

    def failed(self, item: WorkItem, error: str) -> None:
        """An item cannot be done: neither can the trials that need it."""
        self._running.discard(item)
        if isinstance(item, Measure):
            self._fail(item.trial, error)
            return
        for key in self._schedule.fail(item.run.id):
            for trial in self._users[key]:
                self._fail(trial, error)

    def _look_at_board(self) -> None:
        if self.board_file:
            self.board.follow(self.board_file)

    def _fail(self, trial: Trial, error: str) -> None:
        if trial.state != "failed":
            trial.error = error
            self._become(trial, "failed")
            self.board.gone.add(trial.last.name)
            self.sampler.tell(trial, None)

    def _become(self, trial: Trial, state: TrialState) -> None:
        trial.state = state
        on_the_way = self._on_the_way.setdefault(trial.last.stage.name, set())
        (on_the_way.add if state == "waiting" else on_the_way.discard)(trial.last.name)

    def _start(self, item: WorkItem) -> WorkItem:
        self._running.add(item)
        return item

    def _ask(self) -> bool:
        """Take up another trial, if there is one."""
        full = self.most is not None and len(self.trials) >= self.most
        if self.exhausted or full or (trial := self.sampler.ask()) is None:
            self.exhausted = True
            return False
        self._add(trial)
        return True

    def _add(self, trial: Trial) -> None:
        self.trials[trial.name] = trial
        parent: str | None = None
        for run in trial.lineage:
            if run.id not in self._runs:
                self._runs[run.id] = run
                self._users[run.id] = []
                self._schedule.add(run.id, parent, self.world.cost(run), self.world.finished(run))
            if self._schedule.state(run.id) == "done":
                trial.stages[run.name] = "reused"
            self._users[run.id].append(trial)
            parent = run.id
        self._lasts[trial.last.name] = trial.last
        self.board.gone.discard(trial.last.name)
        self._become(trial, "waiting")
        if self._schedule.state(trial.last.id) == "done":
            self._recall(trial)
            self._to_measure(trial)
        elif (state := self._state(trial.last.name)) and state.decision in ("pause", "stop"):
            self._become(trial, "paused" if state.decision == "pause" else "stopped")
            self._schedule.pause(trial.last.id)

    def _state(self, run: str) -> Decided | None:
        """What the rule made of a stage run; decided now where another rule left it at one of this one's rungs."""
        at = self.board.last(run)
        if self.board.state(run) is None and at and at.share in self.rule.rungs:
            self._decide(at, self.rule.at(self.board, at))
        return self.board.state(run)

    def _train(self) -> Train | None:
        while (key := self._schedule.pop()) is not None:
            run = self._runs[key]
            if self.world.finished(run):  # by another search, meanwhile
                self._trained(run, None)
            elif self.world.elsewhere(run):
                self._elsewhere.add(key)
            else:
                trial = self._users[key][0]
                return Train(run, trial, trial.last.id == key)
        return None

    def _look_elsewhere(self) -> None:
        for key in list(self._elsewhere):
            run = self._runs[key]
            if self.world.finished(run):
                self._elsewhere.discard(key)
                self._trained(run, None)
            elif not self.world.elsewhere(run):
                self._elsewhere.discard(key)
                self._schedule.put_back(key)

    def _trained(self, run: StageRun, by: Trial | None) -> None:
        """A stage run is published: trained for the trial `by`, or found."""
        self._schedule.done(run.id)
        for trial in self._users[run.id]:
            trial.stages[run.name] = "trained" if trial is by else "reused"
            if trial.last.id == run.id:
                if by is None:
                    self._recall(trial)
                self._to_measure(trial)

    def _recall(self, trial: Trial) -> None:
        """Hold others against what another search has trained, at rungs that it logged; it went on from them."""
        for at in self.world.logged(trial) if self.rule.rungs else ():
            if at.share in self.rule.rungs and at.run not in self.board.reached.get((at.stage, at.share), {}):
                self._add_line(at)
                self._decide(at, "go on")

    def _to_measure(self, trial: Trial) -> None:
        self._become(trial, "trained")
        self._measures.append(trial)

    def _promote(self) -> bool:
        """Have the best of a rung go on, if the rule says so; the highest rung first."""
        for stage in self._on_the_way:
            for share, complete in reversed(list(self._rungs(stage))):
                if not complete and self.sampler.closed:
                    continue  # those that are still to come may be better
                if best := self.rule.promote(self.board, stage, share, complete):
                    self._go_on(best)
                    return True
        return False

    def _rungs(self, stage: str) -> list[tuple[float, bool]]:
        """The rungs of a stage, and of each whether nobody else will reach it."""
        complete, found = self.exhausted, []
        for share in self.rule.rungs:
            complete = complete and self._on_the_way[stage] <= self.board.reached.get((stage, share), {}).keys()
            found.append((share, complete))
            complete = complete and self.rule.promote(self.board, stage, share, True) is None
        return found

    def _decide(self, at: Reached, decision: Decision) -> None:
        ranking = self.board.ranking(at.stage, at.share)
        place = ranking.index(at) + 1
        said = (at.variant, at.run, at.stage, at.share)
        self._add_line(Decided(*said, decision, self.rule.words, place, len(ranking)))

    def _add_line(self, line: Reached | Decided) -> None:
        if self.board_file:
            write(self.board_file, [line])
            self._look_at_board()
        else:
            self.board.take(line)

    def _go_on(self, best: Reached) -> None:
        self._decide(best, "promote")
        run = self._lasts[best.run]
        following = next((share for share in self.rule.rungs if share > best.share), 1.0)
        self._schedule.resume(run.id, self.world.cost(run) * (following - best.share))
        for trial in self._users[run.id]:
            self._become(trial, "waiting")
