"""Notes of a stage run about its steps, from all ranks, written to journal and log by rank 0."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from remora.batch import Batch
from remora.data.skipped import Skipped
from remora.reading.batches import Dropped, StageData, StepBatches
from remora.training import checkpoint, journal, meter
from remora.training.checkpoint import Checkpoint
from remora.training.engines import Engine
from remora.training.events import JournalEvent, StepFigures
from remora.training.guard import RolledBack, Watch
from remora.training.job import CHECKPOINTS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Past:
    """Earlier attempts of a stage run, from its checkpoints and journal."""

    found: Checkpoint | None
    start: int
    """The next step. After a roll back it is the one after the bad step; the steps before that are skipped too."""
    taken: int
    """Optimiser steps so far; fewer than steps if some were skipped."""
    events: Sequence[JournalEvent]
    """Events of the journal, without those of steps that will be repeated."""
    again: int
    """Number of steps that will be repeated."""
    refused: Sequence[str] = ()
    """Damaged checkpoints, one line each."""

    @classmethod
    def read(cls, folder: Path) -> Past:
        """The same on every rank: one rank reads and all use its result, because shared disks may lag."""
        told: list[Any] = [None, None, []]
        if dist.get_rank() == 0:
            refused: list[str] = []
            found = checkpoint.latest(folder / CHECKPOINTS, refused.append)
            told = [found, list(journal.read(folder / journal.JOURNAL)), refused]
        dist.broadcast_object_list(told)
        found, events, refused = told
        at = found.step if found else 0
        start = max([e["step"] + 1 for e in events if e["event"] == "rolled_back" and e["to"] == at] + [at])
        taken = found.state.get("taken", at) if found else 0
        again = sum(e["event"] == "step" and e["step"] >= start for e in events)
        return cls(found, start, taken, [e for e in events if e.get("step", -1) < start], again, refused)

    @property
    def recent(self) -> Sequence[float]:
        """The losses of the last steps."""
        return self.found.state.get("recent", ()) if self.found else ()


class Notes:
    """One rank's notes; rank 0 writes them."""

    def __init__(self, folder: Path, data: StageData, skipped: Skipped, past: Past) -> None:
        self.data, self.skipped = data, skipped
        self.lead = dist.get_rank() == 0
        self._root, self._journal = folder / CHECKPOINTS, folder / journal.JOURNAL
        self._dropped: set[str] = set()
        for event in past.events:
            if event["event"] == "dropped" and "kind" in event:
                skipped.add(event["entry"], event["sample"], event["kind"])
        bad = sum(event["event"] in ("left_out", "rolled_back") for event in past.events)
        self.watch = Watch(data.stage.guard, past.recent, bad)
        self.attempt = journal.take_over(self._journal, past.start) if self.lead else 0
        for text in past.refused:
            self.note(text)

    def write(self, event: str, **fields: object) -> None:
        if self.lead:
            journal.append(self._journal, event, attempt=self.attempt, **fields)

    def note(self, text: str) -> None:
        """A note for the user: for the log, the terminal and MLflow."""
        if self.lead:
            log.warning(text)
            self.write("noted", text=text)

    def still_ours(self) -> None:
        """Call before writing anything but a line of the journal.

        Raises:
            TrainingError: another attempt has begun, because this process was thought dead.
        """
        if self.lead:
            journal.check_ours(self._journal, self.attempt)

    def step(self, event: StepFigures) -> None:
        self.write("step", **event)
        if self.lead:
            log.info(meter.line(self.data.stage.name, self.data.steps, event))

    def unnamed(self, loaded: StepBatches) -> dict[str, Dropped]:
        """Dropped samples of this rank that have not been reported yet, with the reason."""
        return {sample: why for sample, why in loaded.dropped.items() if sample not in self._dropped}

    def dropped(self, step: int, loaded: StepBatches, engine: Engine) -> int:
        """Report dropped samples, each once over all ranks; returns their number.

        Raises:
            DataError: there are more than their entry's `max_skipped` allows.
        """
        named = engine.gather(self.unnamed(loaded))
        self._dropped |= named.keys()
        for sample, why in named.items():
            log.warning("sample %s is dropped: %s", sample, why.reason)
            self.write("dropped", step=step, sample=sample, **dataclasses.asdict(why))
        for sample, why in named.items():
            self.skipped.add(why.entry, sample, why.kind)
        return len(named)

    def bad(self, step: int, problem: str, batches: Sequence[Batch], sums: Sequence[Tensor], engine: Engine) -> None:
        """Report a bad step and its samples, then apply the recipe's rule.

        The samples are those of micro batches with a NaN loss, on any rank; if there are none, all of the step.

        Raises:
            TrainingError, RolledBack: see `Watch.refuse`.
        """
        culprits = [b.keys.tolist() for b, loss in zip(batches, sums, strict=True) if not math.isfinite(float(loss))]
        mine = {self.data.sample(key - self.data.seed).id: None for keys in culprits for key in keys}
        samples = list(engine.gather(mine)) or None
        where = self.where(step, samples)
        fields = {"step": step, "problem": problem, "samples": samples or self._samples(step)}
        try:
            self.watch.refuse(where, problem)
        except RolledBack:
            newest = checkpoint.latest(self._root, self.note) if self.lead else None
            back = newest.step if newest else 0
            log.warning("%s: %s; back to the newest checkpoint, then on behind this", where, problem)
            self.write("rolled_back", **fields, to=back)
            raise
        log.warning("%s: %s; the step is left out", where, problem)
        self.write("left_out", **fields)

    def where(self, step: int, samples: Sequence[str] | None = None) -> str:
        """The stage, the step and its first samples, for a message."""
        names = samples or self._samples(step)
        more = f", … ({len(names)})" if len(names) > 4 else ""
        return f"stage {self.data.stage.name!r}, step {step}, samples {', '.join(names[:4])}{more}"

    def _samples(self, step: int) -> list[str]:
        return [self.data.sample(p).id for p in self.data.positions(step)]
