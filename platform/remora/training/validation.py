"""The loss over held-out samples while a stage trains: exact for any split, and without a trace in training.

The sum of cross entropies over the supervised tokens of all held-out samples, divided by their count. The model is in
the state in which it answers (no dropout, no gradient), and is given back as it was. Each validation is an event of the
journal that is on disk before the next step, so a stage that goes on neither repeats nor skips one.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist

from remora.data.held_out import HeldOut
from remora.errors import SpecError, TrainingError
from remora.files import disk_errors
from remora.model.refs import PartRef
from remora.model.tuning import parameter_groups
from remora.reading.batches import StageData
from remora.reading.loader import Loader
from remora.reading.truncation import look
from remora.spec import Validation, step_at
from remora.training import engines
from remora.training.allocator import keep_freed
from remora.training.build import build_model, open_data, open_held_out
from remora.training.engines import Engine
from remora.training.events import JournalEvent, ValidationFigures
from remora.training.job import StageJob
from remora.training.journal import VALIDATION, Validated
from remora.training.meter import duration
from remora.training.notes import Notes

log = logging.getLogger(__name__)


def check_held_out(data: StageData) -> None:
    """Try the held-out samples before the first step, on every rank alike.

    Raises:
        DataError: one of them stops the stage.
        SpecError: none of them has a token to measure.
    """
    looks = [look(samples, data.limits) for samples in data.samples]
    if sum(found.looked - found.unfit.total() for found in looks) == 0:
        first = next(found.first for found in looks)
        raise SpecError(
            f"stage {data.stage.name!r}: none of its held-out samples can be read, the first is sample {first}; raise "
            f"max_length ({data.stage.max_length}), or validate by others"
        )


class Scorer(Protocol):
    """Asks a model the questions of the stage's benchmark; it stands above this room."""

    def answers(self, parts: Mapping[str, PartRef], rank: int, world: int) -> dict[str, dict[str, object]]:
        """A rank's share of the answers, by their questions."""

    def score(self, answers: Mapping[str, dict[str, object]]) -> float:
        """The benchmark's headline figure of all answers."""


class Validator:
    """Validates a stage as one rank sees it.

    Args:
        held: the samples that are held out.
        held_data: their batches.
        data: those of the stage's training.
        past: the events of earlier attempts; a validation that is among them is not repeated.
        scorer: who asks the benchmark, where the stage names one.
    """

    def __init__(
        self,
        job: StageJob,
        held: HeldOut,
        held_data: StageData,
        data: StageData,
        past: Iterable[JournalEvent] = (),
        scorer: Scorer | None = None,
    ) -> None:
        self.job, self.of, self._held_data, self._data, self._scorer = job, held.digest, held_data, data, scorer
        measured = [
            e  # one that nobody was there to ask the benchmark at is made again, if the stage stands there
            for e in past
            if e["event"] == VALIDATION and e.get("of") == self.of and (scorer is None or "score" in e)
        ]
        rungs = {step_at(share, data.steps) - 1 for share in job.rungs}
        self._due = {*_said(job).due(data.steps), *rungs} - {e["step"] for e in measured}
        self.before = tuple(Validated.of_event(e) for e in measured)
        """Validations of earlier attempts, in order."""
        self.losses = {int(e["step"]): float(e["loss"]) for e in measured}
        """Step -> nats a supervised token."""
        self._seconds = 0.0

    def is_due(self, step: int) -> bool:
        """Whether the stage is to be validated after that step."""
        return step in self._due

    def left(self, step: int) -> float:
        """Seconds that validations after `step` will take, as long as the last one each."""
        return self._seconds * sum(due > step for due in self._due)

    def validate(self, step: int, engine: Engine, notes: Notes, save: Callable[[Path], None]) -> Validated:
        """Measure the model as it is after `step`, and write it down; all ranks together. `save` writes the parts that
        train into a folder."""
        found = self.measure(step, engine, lambda: self._saved(engine, save))
        self._seconds, self.losses[step] = found["seconds"], found["loss"]
        self._due.discard(step)
        notes.write(VALIDATION, **found)
        if notes.lead:
            asked = _said(self.job).benchmark
            score = f"  {asked.name} {found['score']:.4f}" if asked and "score" in found else ""
            log.info(
                "%s %d/%d  validation loss %.4f%s  %s tokens of %s samples in %s",
                self.job.stage.name, step + 1, self._data.steps, found["loss"], score,
                f"{found['tokens']:,}", f"{found['samples']:,}", duration(found["seconds"]),
            )  # fmt: skip
        return Validated.of_event(found)

    def measure(self, step: int, engine: Engine, parts: Callable[[], Mapping[str, PartRef]]) -> ValidationFigures:
        """What the journal says of a validation; `parts` gives the model's as files, for those who ask it questions."""
        began = time.monotonic()
        loss, tokens, samples = measured_loss(self._held_data, engine, self.job)
        score: float | None = None
        if self._scorer:
            with torch.random.fork_rng():  # a model that is built draws numbers
                answers = engine.gather(self._scorer.answers(parts(), engine.rank, engine.world))
            score = self._scorer.score(answers)
        seen = self._data.positions(step).stop
        found: ValidationFigures = {
            "step": step,
            "samples_seen": seen,
            "share": seen / self._data.total,
            "loss": loss,
            "tokens": tokens,
            "samples": samples,
            "seconds": time.monotonic() - began,
            "ranks": engine.world,
            "of": self.of,
        }
        if score is not None:
            found["score"] = score
        return found

    def summary(self) -> str:
        """The curve in a line, for people, once the last step is validated."""
        last, best = max(self.losses), min(self.losses, key=self.losses.__getitem__)
        lowest = "" if best == last else f", lowest {self.losses[best]:.4f} after step {best + 1:,}"
        return f"held-out loss {self.losses[last]:.4f} after the last step{lowest}"

    def _saved(self, engine: Engine, save: Callable[[Path], None]) -> dict[str, PartRef]:
        """The model as it is now, in a folder that the next validation replaces."""
        folder, parts = self.job.folder / "validated", dict(self.job.parts)
        dist.barrier()  # nobody reads what is replaced now
        if engine.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        save(folder)
        dist.barrier()
        for part in self.job.stage.tune.trained:
            made = folder / part
            lora = self.job.stage.tune[part].lora
            parts[part] = (
                replace(parts[part], adapters=(*parts[part].adapters, made))
                if lora
                else PartRef(parts[part].name, made)
            )
        return parts


def _said(job: StageJob) -> Validation:
    assert job.stage.validation
    return job.stage.validation


def measured_loss(data: StageData, engine: Engine, job: StageJob) -> tuple[float, int, int]:
    """(nats a supervised token, those tokens, samples that have any) over all samples of `data`, each once.

    Raises:
        TrainingError: none has a supervised token.
    """
    sums, tokens, samples = 0.0, 0, 0
    share = (engine.rank, engine.world, job.cluster.micro_batch, job.cluster.rows)
    with engine.evaluating(), Loader(data, share, range(data.steps), 0) as loader:
        for loaded in loader:
            for batch in loaded.batches:
                sums += float(engine.forward(batch))
                tokens += batch.supervised
                samples += int((batch.supervised_by_sample > 0).sum())
    losses, counts, read = engine.tell(sums, tokens, samples)
    if not sum(counts):
        raise TrainingError(f"stage {data.stage.name!r}: no supervised token in all of its held-out samples")
    return math.fsum(losses) / sum(counts), int(sum(counts)), int(sum(read))


def validate_trained(job: StageJob, scorer: Scorer | None = None) -> ValidationFigures:
    """The last validation of a stage that is trained and lacks it, as its journal would have it.

    All ranks call it. `job.parts` are as the stage left them: an adapter that it trained is merged, and the new one in
    its place adds nothing.
    """
    keep_freed()
    with disk_errors(job.folder):
        model, tokenizer = build_model(job)
        data, found = open_data(job, model, tokenizer), open_held_out(job, model, tokenizer)
        assert found
        engine = engines.create(model, parameter_groups(model, job.stage), job.stage, job.cluster)
        try:
            return Validator(job, *found, data, scorer=scorer).measure(data.steps - 1, engine, lambda: job.parts)
        finally:
            engine.close()
