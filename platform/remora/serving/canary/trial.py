"""A canary in the fleet: brings the candidate up beside the stable version, and makes the judge's word the table's.

    trial = CanaryTrial(fleet, candidate, plan)
    await trial.begin()                      # the candidate is up, in the shadow
    state = await trial.record(comparisons)  # from an ingress replica

Its methods belong to the fleet's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from remora.errors import RemoraError
from remora.files.lines import utc_now
from remora.serving.canary import journal
from remora.serving.canary.args import CanaryArgs
from remora.serving.canary.course import CanaryState, Course
from remora.serving.canary.journal import Canary
from remora.serving.canary.judge import JournalJudge
from remora.serving.canary.observed import Comparison
from remora.serving.champion import ModelSource
from remora.serving.fleet import Fleet
from remora.serving.versions import RunningVersion, TrialVersion

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class CandidateSource:
    """A candidate, as it is handed to the endpoint. Can be pickled."""

    source: ModelSource
    version: str
    promote: Callable[[], str]
    """Moves the alias to it, and says to what; the gate may refuse (GateError)."""
    id: str
    """Of this deployment: a fleet that starts again goes on with its canary."""


class CanaryTrial:
    """The canary of the fleet's first model."""

    def __init__(self, fleet: Fleet, candidate: CandidateSource, plan: CanaryArgs) -> None:
        self._fleet, self._candidate, self._plan = fleet, candidate, plan
        self._model = candidate.source.args.model
        self._running: RunningVersion | None = None
        self._judge: JournalJudge | None = None
        self._settling: asyncio.Task[None] | None = None
        self._why = "the candidate is coming up"

    @property
    def state(self) -> CanaryState:
        if self._judge is None:
            return CanaryState("shadow", 0.0, of=self._plan.rule.comparisons, why=self._why)
        state, now = self._judge.state, self._fleet.model(self._model)
        if state.phase == "promoted" and now.trial is None and now.stable.version != self._candidate.version:
            why = f"{state.why}; version {now.stable.version} has been served since"
            return replace(state, phase="replaced", share=0.0, why=why)
        return state

    async def begin(self) -> None:
        """Bring the candidate up, unless its canary was decided. One that does not come up is rolled back."""
        stable = self._fleet.model(self._model).stable.version
        this = Canary(self._candidate.id, self._model, stable, self._candidate.version, self._plan, utc_now())
        runs = self._candidate.source.args.runs
        assert runs is not None, "resolved at deployment"
        file = journal.journal_of(runs, self._model)
        if stable == self._candidate.version and not journal.is_of(file, this.id):
            self._why = f"version {stable} is the stable one already"
            LOG.warning("canary: %s", self._why)
            return
        judge = await asyncio.to_thread(JournalJudge, file, this, self._candidate.promote)
        # One that was promoted has its alias, which the fleet follows.
        if judge.state.phase not in ("promoted", "rolled back", "told") and stable != self._candidate.version:
            try:
                self._running = await self._fleet.bring_up(self._candidate.source, self._candidate.version)
            except RemoraError as e:
                await judge.end("rolled back", f"it does not come up: {' '.join(str(e).split())}")
        self._judge = judge
        if self._running is not None:
            self._fleet.try_out(self._model, TrialVersion(self._running, judge.state.share))
        await self.record(())

    async def record(self, comparisons: Sequence[Comparison]) -> CanaryState:
        """As `CanaryJudge.record` says.

        Raises:
            StoreError: the journal cannot be written.
        """
        if self._judge is None:
            return self.state
        now = self._fleet.model(self._model)
        stable = now.stable.version
        if self._judge.state.running and stable == self._judge.canary.candidate:
            await self._judge.end("promoted", "the alias was moved to it")
        elif self._judge.state.running and stable == self._judge.canary.stable and now.trial is None:
            await self._judge.end("rolled back", "the alias was moved to it and back")
        elif self._judge.state.running and stable != self._judge.canary.stable:
            why = f"the stable version is {stable} now, and it was compared with version {self._judge.canary.stable}"
            await self._judge.end("rolled back", why)
        await self._judge.record(comparisons)
        self._apply()
        if self.state.phase == "deciding" and self._settling is None:
            self._settling = asyncio.create_task(self._settle(self._judge))
        return self.state

    async def _settle(self, judge: JournalJudge) -> None:
        await judge.settled()
        self._apply()

    def _apply(self) -> None:
        """Make the state the table's. A trial that is over there never begins again: when the candidate has become
        the stable version, the alias decides what is served, whatever comes after it."""
        now, state = self._fleet.model(self._model), self.state
        if now.trial is None or self._running is None or self._judge is None:
            return
        moved = now.stable.version != self._judge.canary.stable
        ended = moved or state.phase in ("rolled back", "told")
        trial = None if ended else TrialVersion(self._running, state.share)
        if trial != now.trial:
            self._fleet.try_out(self._model, trial)


def state_before(plan: CanaryArgs) -> CanaryState:
    """Of a canary that nothing is known of yet: no client gets the candidate."""
    return Course(plan).state()
