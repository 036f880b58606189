"""One stage of one variant, from its parts to its trained parts.

Under Ray Train every worker calls `run` with the same job; without Ray so does every process of torchrun, or one
process alone:

    torchrun --nproc-per-node 2 -m remora.training <job.json>
    python -m remora.training <job.json>
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from remora import catalog
from remora.data.batches import StageData
from remora.data.index import Dataset
from remora.data.loader import Loader
from remora.data.prompt import Prompter
from remora.data.skipped import Skipped
from remora.errors import SpecError, TrainingError
from remora.files import disk_errors
from remora.model.activations import checkpoint_activations
from remora.model.attention import attend_per_sample
from remora.model.parts import PartRef, compose, save_part
from remora.model.seeds import seed_for
from remora.model.tuning import freeze_and_train, parameter_groups, tuning_table
from remora.spec import Cluster, Stage
from remora.training import checkpoint, journal
from remora.training.engine import Engine
from remora.training.schedule import rate_factor

log = logging.getLogger(__name__)
PARTS_FOLDER = "parts"
STARVED = 0.02
"""Share of a stage's time from which on waiting for batches is worth a warning."""


@dataclass(frozen=True)
class StageJob:
    """All that a worker needs to know, as plain values."""

    stage: Stage
    parts: Mapping[str, PartRef]
    """Every part of the variant, with the folder of the weights it starts from."""
    folder: Path
    """The stage run's working folder: journal, checkpoints, and at the end `parts/`."""
    datasets: Sequence[Path]
    """The index of each dataset of the stage's mixture, in its order. What they hold never changes."""
    seed: int
    cluster: Cluster

    def to_json(self) -> str:
        return json.dumps(
            {
                "stage": self.stage.model_dump(mode="json"),
                "parts": {k: p.to_json() for k, p in self.parts.items()},
                "folder": str(self.folder),
                "datasets": [str(folder) for folder in self.datasets],
                "seed": self.seed,
                "cluster": self.cluster.model_dump(mode="json"),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> StageJob:
        raw = json.loads(text)
        return cls(
            stage=Stage.model_validate(raw["stage"]),
            parts={k: PartRef.from_json(said) for k, said in raw["parts"].items()},
            folder=Path(raw["folder"]),
            datasets=tuple(Path(folder) for folder in raw["datasets"]),
            seed=raw["seed"],
            cluster=Cluster.model_validate(raw["cluster"]),
        )


OnCheckpoint = Callable[[int, float, Path | None], None]
"""Called on every rank with (next step, loss, folder of the checkpoint on rank 0 and None elsewhere)."""


def run(job: StageJob, on_checkpoint: OnCheckpoint | None = None) -> dict[str, float]:
    """Train the stage, resuming from its newest checkpoint, and leave the trained parts in `folder/parts`.

    A process group must exist. All ranks see the same folder.

    Returns:
        steps, final loss (nats a supervised token), seconds spent by this attempt, and the share of its steps' time
        that rank 0 waited for batches.

    Raises:
        DataError: a sample cannot be read or does not fit; or too many are skipped.
        TrainingError: the loss is not a finite number; the step and its samples are named.
    """
    with disk_errors(job.folder), contextlib.ExitStack() as closing:
        return _run(job, on_checkpoint or (lambda step, loss, folder: None), closing)


def _run(job: StageJob, on_checkpoint: OnCheckpoint, closing: contextlib.ExitStack) -> dict[str, float]:
    stage, cluster, began = job.stage, job.cluster, time.monotonic()
    rank, world = dist.get_rank(), dist.get_world_size()
    lead = rank == 0
    log_path = job.folder / journal.JOURNAL

    if cluster.zero == 3 and any(t.lora and t.lora.bits for t in (stage.tune[p] for p in stage.tune.present)):
        raise SpecError("ZeRO 3 cannot split weights of 4 or 8 bits; set cluster.zero to 2, or leave lora's bits out")

    # The model as the stages before left it, and what of it trains now.
    model, tokenizer = compose(job.parts, job.seed, stage.tune.present)
    if cluster.rows == "packed":
        attend_per_sample(model.llm)
    freeze_and_train(model, stage.tune, job.seed)
    if cluster.activation_checkpointing:
        checkpoint_activations(model)
    table = tuning_table(model, stage)

    # Data is a function of the step: there is nothing to restore but the step itself.
    prompter = Prompter(catalog.template(stage.template), tokenizer, model.image_tokens)
    vision = job.parts["vision"].name if "vision" in stage.tune.present else None
    context = getattr(model.llm.config, "max_position_embeddings", None)
    datasets = [Dataset(d, entry.skip) for d, entry in zip(job.datasets, stage.mixture, strict=True)]
    data = StageData(stage, datasets, prompter, vision, seed_for(job.seed, f"order/{stage.name}"), context)

    found = checkpoint.latest(job.folder / "checkpoints")
    start = found.step if found else 0
    skipped = Skipped(stage.mixture, datasets)
    for event in journal.read(log_path):  # what this run met before it was stopped
        if event["event"] == "dropped" and "kind" in event and event["step"] < start:
            skipped.add(event["entry"], event["sample"], event["kind"])
    mine = (rank, world, cluster.micro_batch, cluster.rows)
    loader = closing.enter_context(Loader(data, mine, range(start, data.steps), cluster.loaders))

    # Weights go in before DeepSpeed copies them, the optimiser's state after.
    if found:
        model.load_state_dict(found.trained(), strict=False)
    engine = Engine(model, parameter_groups(model, stage), stage, cluster.zero)
    if found:
        engine.load_moments(found.moments(), start)

    if lead:
        journal.drop_steps_from(log_path, start)
        journal.append(
            log_path,
            "started",
            stage=stage.name,
            steps=data.steps,
            at=start,
            workers=world,
            data=skipped.as_json(),
            table=[dataclasses.asdict(row) for row in table],
        )
    dropped: dict[str, str] = {}
    peaks = {str(g["part"]): g["lr"] for g in engine.optimizer.param_groups}
    loss = math.nan
    waited = spent = 0.0

    for step in range(start, data.steps):
        tick = time.monotonic()
        loaded = next(loader)
        batches, wait = loaded.batches, time.monotonic() - tick

        # The loss is a mean over the supervised tokens of the global batch, whoever holds them.
        new = {s: reason for s, reason in loaded.dropped.items() if s not in dropped}
        tokens, dropped_now = engine.sum(sum(b.supervised for b in batches), len(new))
        if dropped_now:  # a sample that teaches nothing is named, once whichever ranks met it
            named = engine.gather({sample: (reason, loaded.broken.get(sample)) for sample, reason in new.items()})
            dropped |= {sample: reason for sample, (reason, _) in named.items()}
            dropped_now = len(named)
            for sample, (reason, broken) in named.items():
                log.warning("sample %s is dropped: %s", sample, reason)
                if lead:
                    why = dataclasses.asdict(broken) if broken else {}
                    journal.append(log_path, "dropped", step=step, sample=sample, reason=reason, **why)
                if broken:
                    skipped.add(broken.entry, sample, broken.kind)
        if not tokens:
            raise TrainingError(
                f"{_samples(data, step)}: no supervised token in the whole batch; "
                "check the template, and the journal for samples that were dropped"
            )
        total = 0.0
        for i, batch in enumerate(batches):
            total += engine.backward(batch, tokens, last=i == len(batches) - 1)

        # One step, at the rates of this step number.
        factor = rate_factor(stage, step, data.steps)
        rates = [peaks[g["part"]] * factor for g in engine.optimizer.param_groups]
        norm = engine.step(rates)
        total, computed, real = engine.sum(
            total, sum(b.mask.numel() for b in batches), sum(int(b.mask.sum()) for b in batches)
        )
        loss = total / tokens
        if not math.isfinite(loss):
            raise TrainingError(f"{_samples(data, step)}: loss is {loss}; lower lr or set clip, then run again")

        wait_max = engine.max(wait)
        seconds = time.monotonic() - tick
        waited, spent = waited + wait, spent + seconds
        if lead:
            journal.append(
                log_path,
                "step",
                step=step,
                loss=loss,
                grad_norm=norm,
                lr={part: peak * factor for part, peak in peaks.items()},
                samples=len(data.positions(step)),
                tokens=tokens,
                dropped=dropped_now,
                real_tokens=real / computed,
                wait=wait,
                wait_max=wait_max,
                samples_per_second=len(data.positions(step)) / seconds,
                tokens_per_second=computed / seconds,
            )

        # Every so often: a place to come back to. All ranks gather, one writes.
        if (step + 1) % cluster.checkpoint_every == 0 and step + 1 < data.steps:
            trained, moments = engine.weights(model, trained_only=True), engine.moments()
            folder = None
            if lead:
                folder = checkpoint.save(
                    job.folder / "checkpoints", step + 1, trained, moments, cluster.keep_checkpoints
                )
            on_checkpoint(step + 1, loss, folder)

    share = waited / spent if spent else 0.0

    # What training changed, and only that. An earlier attempt may have died while it wrote.
    if lead:
        shutil.rmtree(job.folder / PARTS_FOLDER, ignore_errors=True)
    for part in stage.tune.trained:
        module = model.part(part)
        assert module is not None
        lora = stage.tune[part].lora
        state = engine.weights(module, trained_only=lora is not None)
        if lead:
            save_part(part, model, state, tokenizer, job.folder / PARTS_FOLDER / part, lora)
    if lead:
        journal.append(log_path, "trained", steps=data.steps, loss=loss, waited=share)
        level = logging.WARNING if share > STARVED else logging.INFO
        log.log(level, "%.2f %% of %.0f s of steps waited for batches (docs/loading.md)", 100 * share, spent)
    engine.close()
    return {"steps": data.steps, "loss": loss, "seconds": time.monotonic() - began, "waited": share}


def _samples(data: StageData, step: int) -> str:
    names = [data.sample(p).id for p in data.positions(step)[:4]]
    return f"stage {data.stage.name!r}, step {step}, samples {', '.join(names)}, …"


def describe(job: StageJob) -> dict[str, Any]:
    """The job as nested plain values, for records and trackers."""
    return json.loads(job.to_json())
