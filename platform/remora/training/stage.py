"""One stage of one variant, from its parts to its trained parts.

Under Ray Train every worker calls `run` with the same job; without Ray so does every process of torchrun, or one
process alone:

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
from typing import Any

import torch.distributed as dist
from torch import Tensor

from remora import catalog
from remora.data.batches import StageData
from remora.data.index import Dataset
from remora.data.loader import Loaded, Loader
from remora.data.prompt import Prompter
from remora.data.skipped import Skipped
from remora.errors import SpecError, TrainingError
from remora.files import disk_errors
from remora.model import split
from remora.model.activations import checkpoint_activations
from remora.model.attention import attend_per_sample
from remora.model.parts import compose, save_part
from remora.model.seeds import seed_for
from remora.model.tuning import freeze_and_train, halve_frozen, parameter_groups, tuning_table
from remora.model.vlm import Batch
from remora.training import checkpoint, journal, meter
from remora.training.engine import DTYPES, Engine, loading
from remora.training.guard import RolledBack, Watch
from remora.training.job import PARTS_FOLDER, StageJob
from remora.training.rehearsal import rehearse
from remora.training.schedule import rate_factor

log = logging.getLogger(__name__)
STARVED = 0.02
"""Share of a stage's time from which on waiting for batches is worth a warning."""


def run(job: StageJob, preempted: Callable[[], bool] = lambda: False) -> dict[str, float]:
    """Train the stage, resuming from its newest checkpoint, and leave the trained parts in `folder/parts`.

    A process group must exist. All ranks see the same folder. `preempted` is asked at every step, on every rank: once
    any says True a checkpoint is made at once and is on disk before the next step.

    Returns:
        steps, final loss (nats a supervised token), seconds spent by this attempt, and the share of its steps' time
        that rank 0 waited for batches.

    Raises:
        DataError: a sample cannot be read or does not fit; or too many are skipped.
        TrainingError: a step was bad and the recipe says stop; the step and its samples are named.
    """
    began = time.monotonic()
    with disk_errors(job.folder):
        while True:
            with contextlib.ExitStack() as closing:
                training = Training(job, closing)
                try:
                    training.train(preempted)
                    training.finish()
                except RolledBack:
                    continue
                return {
                    "steps": training.data.steps,
                    "loss": training.loss,
                    "seconds": time.monotonic() - began,
                    "waited": training.meter.share,
                }


class Training:
    """A stage on its way: one rank's model, data, engine and notes."""

    def __init__(self, job: StageJob, closing: contextlib.ExitStack) -> None:
        stage, cluster = job.stage, job.cluster
        self.job, self.stage = job, stage
        rank, world = dist.get_rank(), dist.get_world_size()
        self.lead = rank == 0
        self.journal = job.folder / journal.JOURNAL
        if cluster.zero == 3 and any(t.lora and t.lora.bits for t in (stage.tune[p] for p in stage.tune.present)):
            raise SpecError(
                "ZeRO 3 cannot split weights of 4 or 8 bits; set cluster.zero to 2, or leave lora's bits out"
            )

        # The model as the stages before left it, and what of it trains now.
        with loading(cluster):
            self.model, self.tokenizer = compose(job.parts, job.seed, stage.tune.present)
        if cluster.rows == "packed":
            attend_per_sample(self.model.llm)
        freeze_and_train(self.model, stage.tune, job.seed)
        if half := DTYPES.get(cluster.precision):
            halve_frozen(self.model, stage.tune, half)
        if cluster.activation_checkpointing:
            checkpoint_activations(self.model)

        # Data is a function of the step: there is nothing to restore but the step itself.
        prompter = Prompter(catalog.template(stage.template), self.tokenizer, self.model.image_tokens)
        vision = job.parts["vision"].name if "vision" in stage.tune.present else None
        context = getattr(self.model.llm.config, "max_position_embeddings", None)
        datasets = [Dataset(d, entry.skip) for d, entry in zip(job.datasets, stage.mixture, strict=True)]
        self.data = StageData(stage, datasets, prompter, vision, seed_for(job.seed, f"order/{stage.name}"), context)

        # One rank looks and all go by it: disks that are shared do not show everybody the same at once.
        newest = [checkpoint.latest(job.folder / "checkpoints") if self.lead else None]
        dist.broadcast_object_list(newest)
        found = newest[0]
        taken = found.step if found else 0
        events = list(journal.read(self.journal))
        # After a roll back the steps since its checkpoint are left out: training goes on behind the bad one.
        self.start = max([e["step"] + 1 for e in events if e["event"] == "rolled_back" and e["to"] == taken] + [taken])
        past = [e for e in events if e.get("step", -1) < self.start]  # what this run met before it was stopped
        self.skipped = Skipped(stage.mixture, datasets)
        for event in past:
            if event["event"] == "dropped" and "kind" in event:
                self.skipped.add(event["entry"], event["sample"], event["kind"])
        state = found.state if found else {}
        bad = sum(e["event"] in ("left_out", "rolled_back") for e in past)
        self.watch = Watch(stage.guard, state.get("recent", ()), bad)
        steps = range(self.start, self.data.steps)
        share = (rank, world, cluster.micro_batch, cluster.rows)
        self.loader = closing.enter_context(Loader(self.data, share, steps, cluster.loaders))

        # Weights go in before DeepSpeed copies them, the optimiser's state after.
        if found:
            split.load(self.model, found.trained(), strict=False)
        self.engine = Engine(self.model, parameter_groups(self.model, stage), stage, cluster, state.get("taken", taken))
        closing.callback(self.engine.close)
        if found:
            self.engine.load_moments(found.moments())
            self.engine.scale, self.engine.good = state.get("scale", (self.engine.scale, 0))
        self.taken = state.get("taken", taken)
        """Optimiser steps so far: fewer than steps where some were left out."""

        self.peaks = {str(g["part"]): g["lr"] for g in self.engine.optimizer.param_groups}
        self.dropped: dict[str, str] = {}
        self.loss = math.nan
        self.meter = meter.Meter(self.data.steps)
        if self.lead:
            journal.drop_steps_from(self.journal, self.start)
            table = [dataclasses.asdict(row) for row in tuning_table(self.model, stage)]
            started = {"stage": stage.name, "steps": self.data.steps, "at": self.start, "workers": world}
            self._note("started", **started, data=self.skipped.as_json(), table=table)
            self.writer = checkpoint.Writer(job.folder / "checkpoints", cluster.keep_checkpoints, self._written)
            closing.callback(self.writer.wait)
        rehearse(self.engine, self.data, cluster, self.journal)

    def train(self, preempted: Callable[[], bool]) -> None:
        """All steps that are left."""
        warned = False
        for step in range(self.start, self.data.steps):
            self.meter.begin()
            loaded = next(self.loader)
            self.meter.loaded()

            # The loss is a mean over the supervised tokens of the global batch, whoever holds them.
            new = {s: reason for s, reason in loaded.dropped.items() if s not in self.dropped}
            counts = (sum(b.supervised for b in loaded.batches), len(new), bool(preempted()))
            tokens, unnamed, notices = (sum(all_ranks) for all_ranks in self.engine.tell(*counts))
            dropped = self._name_dropped(step, new, loaded) if unnamed else 0
            if not tokens:
                raise TrainingError(
                    f"{self._where(step)}: no supervised token in the whole batch; "
                    "check the template, and the journal for samples that were dropped"
                )

            # One step, at the rates of this step number; in fp16 again and again until the loss scale fits.
            factor = rate_factor(self.stage, step, self.data.steps)
            rates = [self.peaks[g["part"]] * factor for g in self.engine.optimizer.param_groups]
            while True:
                sums = self._passes(loaded.batches, tokens)
                norm = self.engine.step(rates)
                if not self.engine.rescale(overflow=not math.isfinite(norm)):
                    break
            self._judge_and_note(step, loaded.batches, sums, norm, tokens, dropped, factor)

            # Every so often, and before a machine is taken away: a place to come back to.
            notice, warned = bool(notices) and not warned, bool(notices)
            if notice or (step + 1) % self.job.cluster.checkpoint_every == 0:
                if step + 1 < self.data.steps:
                    self._checkpoint(step + 1)
                if notice and self.lead:
                    self.writer.wait()
                    self._note("preempted", step=step)

    def _passes(self, batches: Sequence[Batch], tokens: float) -> list[Tensor]:
        """Gradients of all micro batches; their summed losses. A leap is seen before the last is added, and spoils it:
        a step whose gradient is no number is not taken."""
        sums: list[Tensor] = []
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            loss = self.engine.forward(batch)
            sums.append(loss.detach())
            if last and self.stage.guard.spike:
                (totals,) = self.engine.tell(sum(float(s) for s in sums))
                if self.watch.problem(sum(totals) / tokens):
                    loss = loss * math.nan
            self.engine.backward(loss, tokens, last)
        return sums

    def _judge_and_note(
        self,
        step: int,
        batches: Sequence[Batch],
        sums: Sequence[Tensor],
        norm: float,
        tokens: float,
        dropped: int,
        factor: float,
    ) -> None:
        """What the step came to: a line of the journal, or what the recipe says about a bad one."""
        real = sum(int(b.mask.sum()) for b in batches)
        computed = sum(b.mask.numel() for b in batches)
        own = sum(float(s) for s in sums)
        totals, reals, computeds, waits = self.engine.tell(own, real, computed, self.meter.wait)
        self.loss = sum(totals) / tokens
        seconds = self.meter.done()
        if problem := self.watch.problem(self.loss, norm):
            self._refuse(step, problem, self._culprits(step, batches, sums))
            return
        self.watch.taken(self.loss)
        self.taken += 1
        if not self.lead:
            return
        event = {
            "step": step,
            "loss": self.loss,
            "grad_norm": norm,
            "lr": {part: peak * factor for part, peak in self.peaks.items()},
            "samples": len(self.data.positions(step)),
            "tokens": tokens,
            "dropped": dropped,
            "real_tokens": sum(reals) / sum(computeds),
            "wait": self.meter.wait,
            "wait_max": max(waits),
            "wait_share": self.meter.share,
            "samples_per_second": len(self.data.positions(step)) / seconds,
            "tokens_per_second": sum(reals) / seconds,
            "memory": self.engine.memory(),
            "eta": self.meter.left(step),
        }
        if self.engine.scale != 1.0:
            event["loss_scale"] = self.engine.scale
        self._note("step", **event)
        log.info(meter.line(self.stage.name, self.data.steps, event))

    def _culprits(self, step: int, batches: Sequence[Batch], sums: Sequence[Tensor]) -> list[str]:
        """The samples of the micro batches whose loss is no number, on whichever rank; all of the step's if none is."""
        mine = [b.keys.tolist() for b, loss in zip(batches, sums, strict=True) if not math.isfinite(float(loss))]
        found = self.engine.gather({self.data.sample(key - self.data.seed).id: None for keys in mine for key in keys})
        return list(found) or [self.data.sample(p).id for p in self.data.positions(step)]

    def _refuse(self, step: int, problem: str, samples: Sequence[str]) -> None:
        """A bad step: it is named, then the recipe's rule is followed.

        Raises:
            TrainingError, RolledBack: as `Watch.refuse` says.
        """
        where = self._where(step, samples)
        try:
            self.watch.refuse(where, problem)
        except RolledBack:
            if self.lead:
                self.writer.wait()
                newest = checkpoint.latest(self.job.folder / "checkpoints")
                back = newest.step if newest else 0
                log.warning(
                    "%s: %s; back to the checkpoint of step %d, on with step %d", where, problem, back, step + 1
                )
                self._note("rolled_back", step=step, to=back, problem=problem, samples=list(samples))
            dist.barrier()
            raise
        log.warning("%s: %s; the step is left out", where, problem)
        if self.lead:
            self._note("left_out", step=step, problem=problem, samples=list(samples))

    def _name_dropped(self, step: int, new: dict[str, str], loaded: Loaded) -> int:
        """Name samples that teach nothing, each once whichever ranks met it; how many."""
        named = self.engine.gather({sample: (reason, loaded.broken.get(sample)) for sample, reason in new.items()})
        self.dropped |= {sample: reason for sample, (reason, _) in named.items()}
        for sample, (reason, broken) in named.items():
            log.warning("sample %s is dropped: %s", sample, reason)
            if self.lead:
                why = dataclasses.asdict(broken) if broken else {}
                self._note("dropped", step=step, sample=sample, reason=reason, **why)
            if broken:
                self.skipped.add(broken.entry, sample, broken.kind)
        return len(named)

    def _checkpoint(self, step: int) -> None:
        """All ranks gather; one begins to write."""
        trained, moments = self.engine.weights(self.model, trained_only=True), self.engine.moments()
        if self.lead:
            scale = (self.engine.scale, self.engine.good)
            state = {"recent": list(self.watch.recent), "taken": self.taken, "scale": scale}
            self.writer.save(step, trained, moments, state)

    def _written(self, step: int, seconds: float, error: str | None) -> None:
        self._note("checkpoint", at=step, seconds=seconds, error=error)

    def finish(self) -> None:
        """Write what training changed, and only that. An earlier attempt may have died while it wrote."""
        if self.lead:
            self.writer.wait()
            shutil.rmtree(self.job.folder / PARTS_FOLDER, ignore_errors=True)
        for part in self.stage.tune.trained:
            module = self.model.part(part)
            assert module is not None
            lora = self.stage.tune[part].lora
            state = self.engine.weights(module, trained_only=lora is not None)
            if self.lead:
                save_part(part, self.model, state, self.tokenizer, self.job.folder / PARTS_FOLDER / part, lora)
        if self.lead:
            self._note("trained", steps=self.data.steps, loss=self.loss, waited=self.meter.share)
            level = logging.WARNING if self.meter.share > STARVED else logging.INFO
            waited = 100 * self.meter.share
            log.log(level, "%.2f %% of %.0f s of steps waited for batches (docs/loading.md)", waited, self.meter.spent)

    def _note(self, event: str, **fields: Any) -> None:
        journal.append(self.journal, event, **fields)

    def _where(self, step: int, samples: Sequence[str] = ()) -> str:
        names = samples or [self.data.sample(p).id for p in self.data.positions(step)]
        more = f", … ({len(names)})" if len(names) > 4 else ""
        return f"stage {self.stage.name!r}, step {step}, samples {', '.join(names[:4])}{more}"
