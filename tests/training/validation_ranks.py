"""What the ranks of test_validation run: one stage, validated in several ways, stopped or killed at a validation.

torchrun --nproc-per-node 2 validation_ranks.py job.json out.json '[{"name": "plain", "cluster": {"zero": 0}}, …]'

A run may have `folder` (its name, if not given), `validate` (false: none), `stop` (asked for before it begins), `die`
("before 1": when step 1 is to be validated; "after 1") and `preempt` (the step in which a notice comes). With `double`
its weights' loss at the end is worked out in float64, a sample at a time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from double import _loss, _norms_in_double

from remora.errors import Paused
from remora.model.parts import compose
from remora.model.tuning import freeze_and_train
from remora.training import build, pausing, stage
from remora.training.job import StageJob
from remora.training.journal import JOURNAL, read
from remora.training.validation import Validator


def in_double(job: StageJob) -> float:
    """The loss of the trained parts over the held-out samples by its definition: no batch, no rank, no engine."""
    parts = {
        name: replace(ref, folder=made) if (made := job.folder / "parts" / name).exists() else ref
        for name, ref in job.parts.items()
    }
    model, tokenizer = compose(parts, job.seed, job.stage.tune.present)
    freeze_and_train(model, job.stage.tune, job.seed)
    model.eval().double()
    _norms_in_double(model)
    _, data = build.open_held_out(job, model, tokenizer)
    data.stage = data.stage.model_copy(update={"batch": 1})
    sums, tokens = 0.0, 0
    with torch.no_grad():
        for position in range(data.total):
            (batch,) = data.read(position, 0, 1, 1, "padded").batches
            sums += float(_loss(model, batch)) if batch.supervised else 0.0
            tokens += batch.supervised
    return sums / tokens


def watch(die: str) -> dict[str, list[bool]]:
    """Compare the process's random states and the modules' modes before and after each validation."""
    same: dict[str, list[bool]] = {"chance": [], "modes": []}
    validate = Validator.validate
    when, _, at = die.partition(" ")

    def state() -> tuple[object, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    def watched(self, step, engine, cluster, notes):
        if when == "before" and step == int(at):
            os._exit(9)
        before, modes = state(), [m.training for m in engine.engine.modules()]
        validate(self, step, engine, cluster, notes)
        same["chance"].append(state() == before)
        same["modes"].append([m.training for m in engine.engine.modules()] == modes and any(modes))
        same.setdefault("graph", []).append(torch.is_grad_enabled())
        if when == "after" and step == int(at):
            dist.barrier()
            os._exit(9)

    Validator.validate = watched
    return same


def notice_in(step: int | None) -> Callable[[], bool]:
    """From that step on, says that the machine is about to be preempted."""
    asked = itertools.count()
    return lambda: step is not None and next(asked) >= step


def digest_of(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*.safetensors"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()


def main() -> None:
    job = StageJob.from_json(Path(sys.argv[1]).read_text())
    dist.init_process_group("gloo")
    out = {}
    for how in json.loads(sys.argv[3]):
        folder = job.folder / how.get("folder", how["name"])
        folder.mkdir(exist_ok=True)
        this = replace(job, folder=folder, cluster=job.cluster.model_copy(update=how.get("cluster", {})))
        if how.get("validate") is False:
            this = replace(this, stage=job.stage.model_copy(update={"validation": None}))
        if how.get("stop"):
            pausing.ask(folder)
        dist.barrier()
        original, same = Validator.validate, watch(how.get("die", ""))
        said = {}
        try:
            stage.run(this, notice_in(how.get("preempt")))
        except Paused as e:
            said = {"paused": e.step, "message": str(e)}
        Validator.validate = original
        events = list(read(folder / JOURNAL))
        said |= {"events": events, "parts": digest_of(folder / "parts"), "same": same}
        said["stop"] = pausing.is_asked(folder)
        if how.get("double") and dist.get_rank() == 0:
            said["double"] = in_double(this)
        out[how["name"]] = said
        dist.barrier()
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(out))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
