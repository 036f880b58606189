"""Run by the ranks of test_guard: a stage several times in one process, with other settings and another fault each
time.

torchrun --nproc-per-node 2 bad_steps.py job.json out.json '{"name": {"cluster": {…}, "guard": {…}, "nan": 3}, …}'

A setting's `nan` is the step in which the last rank's loss is NaN; in `leap` the loss is ten times what it is.
`scale` is fp16's loss scale at the start. `die` ends the process before that step, once. From a setting with `first`
on, stages end after so many steps.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ranks import shorten

from remora.errors import TrainingError
from remora.model.seeds import seed_for
from remora.spec import Guard
from remora.training import stage
from remora.training.engines import precision
from remora.training.engines.deepspeed import DeepSpeedEngine as Engine
from remora.training.job import StageJob
from remora.training.journal import JOURNAL, read

forward, step = Engine.forward, Engine.step


class Died(Exception):
    pass


def main() -> None:
    stage.peak_flops = lambda device, precision: 1e12  # type: ignore[assignment]  # as if this were a GPU
    job = StageJob.from_json(Path(sys.argv[1]).read_text())
    dist.init_process_group("gloo")
    out: dict[str, Any] = {}
    for name, setting in json.loads(sys.argv[3]).items():
        folder = job.folder / name
        folder.mkdir(exist_ok=True)
        if first := setting.get("first"):
            shorten(first)
        out[name] = train(replace(job, folder=folder), setting)
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(out))
    dist.destroy_process_group()


def train(job: StageJob, setting: dict[str, Any]) -> dict[str, Any]:
    """The journal's events, the error if there was one, and whether each optimiser step moved the weights."""
    first = seed_for(job.seed, f"order/{job.stage.name}") >> 16  # the key of the sample at position 0
    job = replace(
        job,
        stage=job.stage.model_copy(update={"guard": Guard(**setting.get("guard", {}))}),
        cluster=job.cluster.model_copy(update=setting.get("cluster", {})),
    )
    moved: list[list[Any]] = []
    deaths = [setting["die"]] if "die" in setting else []
    now = 0

    def faulty_forward(self: Engine, batch: Any) -> torch.Tensor:
        nonlocal now
        loss = forward(self, batch)
        now = (int(batch.keys[0]) - first) // job.stage.batch
        if deaths and now == deaths[0]:
            deaths.clear()
            raise Died
        if now == setting.get("nan") and self.rank == self.world - 1:
            return loss * math.nan
        return loss * 10 if now == setting.get("leap") else loss

    def watched_step(self: Engine, factor: float) -> float | None:
        before = self.weights(self.model, trained_only=True)
        norm = step(self, factor)
        after = self.weights(self.model, trained_only=True)
        moved.append([now, any(not torch.equal(before[n], after[n]) for n in before)])
        return norm

    Engine.forward, Engine.step = faulty_forward, watched_step  # type: ignore[method-assign]
    precision.FIRST_SCALE = setting.get("scale", 2.0**16)
    error = None
    for _ in range(2):
        try:
            stage.run(job)
        except TrainingError as e:
            error = str(e)
        except Died:
            continue
        break
    weights = {}
    for file in sorted((job.folder / "parts").rglob("*.safetensors")):
        from safetensors.torch import load_file

        weights[file.parent.name] = sum(float(t.double().abs().sum()) for t in load_file(file).values())
    return {"events": list(read(job.folder / JOURNAL)), "error": error, "moved": moved, "weights": weights}


if __name__ == "__main__":
    main()
