"""Train one stage of one variant, from its initial parts to its trained parts.

Under Ray Train every worker calls `run` with the same job; without Ray, every process of torchrun does, or a single
one:

    torchrun --nproc-per-node 2 -m remora.training <job.json>
    python -m remora.training <job.json>
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from remora.batch import Batch
from remora.data.skipped import Skipped
from remora.errors import Paused, TrainingError
from remora.files import disk_errors
from remora.model import split
from remora.model.parts import save_part
from remora.model.tuning import parameter_groups, tuning_table
from remora.reading.loader import Loader
from remora.training import engines, pausing
from remora.training.allocator import keep_freed
from remora.training.build import build_model, check_samples, open_data, open_held_out
from remora.training.checkpoint import Writer
from remora.training.counters import Counters, together
from remora.training.environment import environment
from remora.training.events import StepFigures
from remora.training.flops import StepFlops, peak_flops
from remora.training.groups import count_groups, weigh_groups
from remora.training.guard import RolledBack
from remora.training.job import PARTS_FOLDER, StageJob
from remora.training.journal import JOURNAL, Validated
from remora.training.meter import Meter
from remora.training.notes import CHECKPOINTS, Notes, Past
from remora.training.rehearsal import rehearse
from remora.training.schedule import rate_factor
from remora.training.validation import Scorer, Validator, check_held_out

log = logging.getLogger(__name__)
STARVED = 0.02
"""Fraction of a stage's time above which waiting for batches is logged as a warning."""


def to_the_end(validated: Validated, steps: int) -> bool:
    """Pause at no validation."""
    return True


def run(
    job: StageJob,
    preempted: Callable[[], bool] = lambda: False,
    scorer: Scorer | None = None,
    go_on: Callable[[Validated, int], bool] = to_the_end,
) -> dict[str, float]:
    """Train the stage, resuming from its newest checkpoint, and leave the trained parts in `folder/parts`.

    A process group must exist, and all ranks must see the same folder. `preempted` is called at every step on every
    rank: when any returns True, a checkpoint is on disk before the next step. `scorer` asks the stage's validation
    benchmark, if it has one.

    `go_on` hears each validation and the number of steps, on rank 0; if it returns False, the stage pauses there. It
    hears those of earlier attempts first: another search may have trained this stage so far.

    Returns:
        steps, final loss (nats per supervised token), seconds of this attempt, and the fraction of step time that rank
        0 waited for batches; on rank 0 also the attempt's number, which publishing needs.

    Raises:
        DataError: a sample cannot be read or does not fit, or too many are skipped.
        TrainingError: a step was bad and the rule is stop; the message has the step and its samples.
        Paused: it was asked to stop at a validation (pausing.py); its checkpoint is kept.
    """
    began = time.monotonic()
    keep_freed()
    with disk_errors(job.folder):
        while True:
            with contextlib.ExitStack() as closing, contextlib.suppress(RolledBack):
                training = Training(job, closing, scorer, go_on)
                training.train(preempted)
                training.finish()
                seconds, waited = time.monotonic() - began, training.meter.share
                figures = {"steps": training.data.steps, "loss": training.loss, "seconds": seconds, "waited": waited}
                return figures | {"attempt": training.notes.attempt}


class Training:
    """The training of a stage on one rank."""

    def __init__(
        self,
        job: StageJob,
        closing: contextlib.ExitStack,
        scorer: Scorer | None,
        go_on: Callable[[Validated, int], bool],
    ) -> None:
        stage, cluster = job.stage, job.cluster
        self.job, self.stage, self.go_on = job, stage, go_on
        rank, world = dist.get_rank(), dist.get_world_size()
        self.model, self.tokenizer = build_model(job)

        # Data is a function of the step, so only the step needs to be restored.
        self.data = open_data(job, self.model, self.tokenizer)
        past = Past.read(job.folder)
        self.validator: Validator | None = None
        if found := open_held_out(job, self.model, self.tokenizer):
            self.validator = Validator(job, *found, self.data, past.events, scorer)
        if not past.start:
            for note in check_samples(self.data):
                log.warning(note)
            if found:
                check_held_out(found[1])
        self.start, self.taken = past.start, past.taken
        self.notes = Notes(job.folder, self.data, Skipped(stage.mixture, self.data.samples), past)
        share = (rank, world, cluster.micro_batch, cluster.rows)
        steps = range(self.start, self.data.steps)
        self.loader = closing.enter_context(Loader(self.data, share, steps, cluster.loaders))

        # Weights are loaded before the engine copies them, the optimiser's state after.
        if past.found:
            split.load(self.model, past.found.trained(), strict=False)
        self.engine = engines.create(self.model, parameter_groups(self.model, stage), stage, cluster, self.taken)
        closing.callback(self.engine.close)
        if past.found:
            self.engine.load(past.found.moments(), past.found.state)
        self.flops = StepFlops(self.model)
        peak = peak_flops(self.engine.device, cluster.precision)
        self.could = peak * world if peak else None
        """Peak operations per second of all ranks' GPUs."""

        self.loss = math.nan
        self.meter = Meter(self.data.steps)
        self.writer: Writer | None = None
        if rank == 0:
            self.writer = Writer(job.folder / CHECKPOINTS, cluster.keep_checkpoints, self._written)
            closing.callback(self.writer.wait)
        table = [dataclasses.asdict(row) for row in tuning_table(self.model, stage)]
        about = {"stage": stage.name, "steps": self.data.steps, "at": self.start, "again": past.again, "workers": world}
        gpu = torch.cuda.get_device_properties(self.engine.device) if self.engine.device.type == "cuda" else None
        self.counters = Counters(str(gpu.uuid) if gpu else None)
        about |= {"counters": self.counters.kinds, "environment": environment(gpu.name if gpu else None)}
        self.notes.write("started", **about, data=self.notes.skipped.as_json(), table=table)
        rehearse(self.engine, self.data, cluster, job.folder / JOURNAL)

    def train(self, preempted: Callable[[], bool]) -> None:
        """Take all remaining steps."""
        warned = False
        self._look_at_the_past()
        self._validate(self.start - 1)  # its checkpoint may be older than its validation would have been
        for step in range(self.start, self.data.steps):
            self.meter.begin()
            loaded = next(self.loader)
            self.meter.loaded()

            # The loss is a mean over the supervised tokens of the global batch, on any rank, or over its groups.
            supervised, unnamed = sum(b.supervised for b in loaded.batches), len(self.notes.unnamed(loaded))
            own_groups = count_groups(self.data, step, loaded.batches)
            told = self.engine.tell(supervised, unnamed, preempted(), *own_groups)
            tokens, unnamed_anywhere, notices, *groups = (sum(ranks) for ranks in told)
            batches = weigh_groups(self.data, step, loaded.batches, groups)
            dropped = self.notes.dropped(step, loaded, self.engine) if unnamed_anywhere else 0
            if not tokens:
                raise TrainingError(
                    f"{self.notes.where(step)}: no supervised token in the whole batch; "
                    "check the template, and the journal for samples that were dropped"
                )

            # One step, at the rates of this step number; in fp16 repeated until the loss scale fits.
            factor = rate_factor(self.stage, step, self.data.steps)
            norm = None
            while norm is None:
                sums = self._passes(batches, tokens)
                norm = self.engine.step(factor)
            self._look_back(step, batches, sums, norm, tokens, dropped, factor)

            # A checkpoint at regular intervals, and before a machine is preempted.
            notice, warned = bool(notices) and not warned, bool(notices)
            last = step + 1 == self.data.steps
            if notice and not last:
                self._checkpoint(step + 1, at_once="preempted")
            self._validate(step)
            if (step + 1) % self.job.cluster.checkpoint_every == 0 and not (notice or last):
                self._checkpoint(step + 1)

    def _passes(self, batches: Sequence[Batch], tokens: float) -> list[Tensor]:
        """Accumulate gradients of all micro batches; returns their summed losses. A spike is detected before the last
        one is added and makes it NaN: a step whose gradient is NaN is not taken."""
        sums: list[Tensor] = []
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            loss = self.engine.forward(batch)
            sums.append(loss.detach())
            if last and self.stage.guard.spike:
                (totals,) = self.engine.tell(sum(float(s) for s in sums))
                if self.notes.watch.problem(sum(totals) / tokens):
                    loss = loss * math.nan
            self.engine.backward(loss, tokens, last)
        return sums

    def _look_back(
        self,
        step: int,
        batches: Sequence[Batch],
        sums: Sequence[Tensor],
        norm: float,
        tokens: float,
        dropped: int,
        factor: float,
    ) -> None:
        """Write the step's result to the journal, or apply the recipe's rule for a bad one."""
        real = sum(int(b.mask.sum()) for b in batches)
        computed = sum(b.mask.numel() for b in batches)
        own = sum(float(s) for s in sums)
        counted = self.flops(batches)
        operations = math.nan if counted is None else counted
        told = self.engine.tell(own, real, computed, self.meter.wait, operations, *self.counters.tell())
        totals, reals, computeds, waits, each, *drawn = told
        flops = sum(each) if math.isfinite(sum(each)) else None
        self.loss = sum(totals) / tokens
        seconds = self.meter.done()
        if problem := self.notes.watch.problem(self.loss, norm):
            if self.writer:
                self.writer.wait()  # a roll back uses the newest checkpoint
            self.notes.bad(step, problem, batches, sums, self.engine)
            return
        self.notes.watch.taken(self.loss)
        self.taken += 1
        event: StepFigures = {
            "step": step,
            "loss": self.loss,
            "grad_norm": norm,
            "lr": {part: peak * factor for part, peak in self.engine.peaks.items()},
            "samples": len(self.data.positions(step)),
            "tokens": tokens,
            "dropped": dropped,
            "real_tokens": sum(reals) / sum(computeds),
            "wait": self.meter.wait,
            "wait_max": max(waits),
            "wait_share": self.meter.share,
            "samples_per_second": len(self.data.positions(step)) / seconds,
            "tokens_per_second": sum(reals) / seconds,
            "flops": flops,
            "mfu": flops / seconds / self.could if self.could and flops is not None else None,
            "memory": self.engine.memory(),
            "eta": self.meter.left(step) + (self.validator.left(step) if self.validator else 0.0),
            "energy": together(*drawn),
            "system": self.counters.used() if self.notes.lead else {},
        }
        if self.engine.loss_scale != 1.0:
            event["loss_scale"] = self.engine.loss_scale
        self.notes.step(event)

    def _validate(self, step: int) -> None:
        """Validate the stage if that is due after `step`, and stop there if somebody asked for it meanwhile.

        Raises:
            Paused: somebody did.
        """
        if self.validator is None or not self.validator.is_due(step):
            return
        found = self.validator.validate(step, self.engine, self.notes, self._save_parts)
        ends = self.notes.lead and not self.go_on(found, self.data.steps)
        self._pause(step, ends or (self.notes.lead and pausing.is_asked(self.job.folder)))

    def _look_at_the_past(self) -> None:
        """Let `go_on` hear the validations of earlier attempts, and pause where the stage stands if it says so.

        Raises:
            Paused: it does.
        """
        if self.validator and self.start:
            heard = (self.go_on(found, self.data.steps) for found in self.validator.before)
            self._pause(self.start - 1, self.notes.lead and not all(heard), kept=True)

    def _pause(self, step: int, asked: bool, kept: bool = False) -> None:
        """Stop behind `step` if rank 0 is asked to, unless it is the last one; `kept` if a checkpoint is there.

        Raises:
            Paused: it is.
        """
        (said,) = self.engine.tell(asked)
        if any(said) and step + 1 < self.data.steps:
            if not kept:
                self._checkpoint(step + 1, at_once="paused")
            if self.notes.lead:
                pausing.forget(self.job.folder)
            raise Paused(
                f"stage {self.stage.name!r} was asked to stop and did after {step + 1:,} of {self.data.steps:,} steps, "
                "kept at a checkpoint; next: run the same command again, which goes on from there",
                step + 1,
            )

    def _checkpoint(self, step: int, at_once: str = "") -> None:
        """All ranks gather; one writes, while steps go on; or it is on disk when this returns, for a reason that the
        journal is told."""
        self.notes.still_ours()
        trained, moments = self.engine.weights(self.model, trained_only=True), self.engine.moments()
        if self.writer:
            state = {"recent": list(self.notes.watch.recent), "taken": self.taken}
            self.writer.save(step, trained, moments, state | self.engine.state())
        if at_once:
            if self.writer:
                self.writer.wait()
            dist.barrier()
            self.notes.write(at_once, step=step - 1)

    def _written(self, step: int, seconds: float, error: str | None) -> None:
        self.notes.write("checkpoint", at=step, seconds=seconds, error=error)

    def finish(self) -> None:
        """Write the trained parts, replacing what an earlier attempt may have left unfinished."""
        self.notes.still_ours()
        folder = self.job.folder / PARTS_FOLDER
        if self.writer:
            self.writer.wait()
            shutil.rmtree(folder, ignore_errors=True)
        self._save_parts(folder)
        for line in self.notes.skipped.lines():
            self.notes.note(line)
        if self.validator:
            self.notes.write("noted", text=self.validator.summary())
        self.notes.write("trained", steps=self.data.steps, loss=self.loss, waited=self.meter.share)
        if self.writer:
            level = logging.WARNING if self.meter.share > STARVED else logging.INFO
            waited = 100 * self.meter.share
            log.log(level, "%.2f %% of %.0f s of steps waited for batches (docs/loading.md)", waited, self.meter.spent)

    def _save_parts(self, folder: Path) -> None:
        """Write the parts that train, on all ranks together."""
        for part in self.stage.tune.trained:
            module = self.model.part(part)
            assert module is not None
            lora = self.stage.tune[part].lora
            state = self.engine.weights(module, trained_only=lora is not None)
            if self.writer:
                save_part(part, self.model, state, self.tokenizer, folder / part, lora)
