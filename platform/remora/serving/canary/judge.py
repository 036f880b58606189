"""The judge of a canary: keeps its journal, and acts on the verdict. One for all ingress replicas of an endpoint.

What it knows follows from the journal, so one that is killed goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from remora.errors import RemoraError, first_line
from remora.serving.canary import journal
from remora.serving.canary.course import CanaryState, Course, Phase
from remora.serving.canary.journal import Canary
from remora.serving.canary.observed import Comparison

LOG = logging.getLogger(__name__)


class CanaryJudge(Protocol):
    """What ingress replicas see of it."""

    async def record(self, comparisons: Sequence[Comparison]) -> CanaryState:
        """Take some comparisons, or none, and say where the canary is. One that comes twice counts once."""
        ...


class JournalJudge:
    """A `CanaryJudge` in this process."""

    def __init__(
        self,
        file: Path,
        canary: Canary,
        promote: Callable[[], str],
    ) -> None:
        """Begin the canary in this journal, or go on with it: with the one of this id, and with one of the same
        versions and plan that was not decided.

        Args:
            promote: Moves the alias and says to what.

        Raises:
            StoreError: the journal cannot be read or written.
        """
        self._file, self._promote = file, promote
        self._lock = asyncio.Lock()
        self._promoting: asyncio.Task[None] | None = None
        kept = _to_go_on(journal.read(file), canary) if file.exists() else None
        if kept is None:
            journal.begin(file, canary)
        self.canary = kept or canary
        self._phase: Phase | None = self.canary.phase
        self._why = self.canary.why
        self._course = Course(self.canary.plan)
        self._seen = {comparison.id for comparison in self.canary.comparisons}
        looks = []
        for comparison in self.canary.comparisons:
            if look := self._course.add(comparison):
                looks.append(journal.looked(look, self._course.share))
        journal.write(file, looks[len(self.canary.looks) :])  # those that a crash came before

    @property
    def state(self) -> CanaryState:
        return self._course.state(self._phase, self._why)

    async def record(self, comparisons: Sequence[Comparison]) -> CanaryState:
        """As `CanaryJudge.record` says.

        Raises:
            StoreError: the journal cannot be written. Nothing was taken then.
        """
        async with self._lock:
            new = {c.id: c for c in comparisons if c.id not in self._seen}
            if new and self._phase is None and self._course.verdict == "go on":
                await self._take(list(new.values()))
            if self._phase is None and self._course.verdict != "go on":
                await self._act()
            return self.state

    async def end(self, phase: Phase, why: str) -> None:
        """End it for another reason than the rule's.

        Raises:
            StoreError: the journal cannot be written.
        """
        async with self._lock:
            if self._phase is None:
                await self._end(phase, why)

    async def settled(self) -> None:
        """Return when the alias was moved, or it was refused, if that was begun."""
        if self._promoting is not None:
            await self._promoting

    async def _take(self, comparisons: Sequence[Comparison]) -> None:
        await asyncio.to_thread(journal.write, self._file, [journal.compared(c) for c in comparisons])
        for comparison in comparisons:
            self._seen.add(comparison.id)
            look = await asyncio.to_thread(self._course.add, comparison)
            if look is not None:
                await asyncio.to_thread(journal.write, self._file, [journal.looked(look, self._course.share)])
                LOG.warning("canary: look %d at %d comparisons: %s %s", look.look, look.n, look.verdict, look.why)

    async def _act(self) -> None:
        """Act on the verdict; the alias is moved beside, since that may take seconds."""
        last = self._course.looks[-1]
        if last.verdict == "roll back":
            await self._end("rolled back", last.why)
        elif not self.canary.plan.promote:
            await self._end("told", f"would take over ({last.why}), and promotion is off")
        elif self._promoting is None:
            self._promoting = asyncio.create_task(self._take_over(last.why))

    async def _take_over(self, why: str) -> None:
        try:
            moved = await asyncio.to_thread(self._promote)
        except Exception as error:
            if not isinstance(error, RemoraError):
                LOG.exception("the candidate could not be promoted")
            end: tuple[Phase, str] = "rolled back", f"{why}, but it was not promoted: {first_line(error)}"
        else:
            end = "promoted", f"{why}; {moved}"
        async with self._lock:
            await self._end(*end)

    async def _end(self, phase: Phase, why: str) -> None:
        await asyncio.to_thread(journal.write, self._file, [journal.ended(phase, why)])
        self._phase, self._why = phase, why
        LOG.warning("canary: version %s is %s: %s", self.canary.candidate, phase, why)


def _to_go_on(canaries: Sequence[Canary], this: Canary) -> Canary | None:
    """The canary of the journal that `this` is the same as."""
    if not canaries:
        return None
    last = canaries[-1]
    same = (last.stable, last.candidate, last.plan) == (this.stable, this.candidate, this.plan)
    return last if last.id == this.id or (same and last.phase is None) else None
