"""Run by the ranks of several tests: a few steps of a stage, then its losses; or one stage repeatedly, split
differently.

torchrun --nproc-per-node 2 ranks.py job.json out.json [--die-after STEP] [--die-in STEP] [--overtaken-in STEP]
    [--ledger NAME]
torchrun --nproc-per-node 2 ranks.py job.json out.json --settings '{"packed": {"rows": "packed", "zero": 2}, …}'
    [--first STEPS] [--double [--nudge HOW_FAR]]

Imports take nine seconds a process, so many settings go through one; out.json then holds the events of each. `--first`
takes a stage's first steps at the rates of the whole stage. `--double` adds the same steps in float64, as "float64",
and `--nudge` those from weights that were moved a little, as "nudged".
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from double import in_double

from remora.model.seeds import seed_for
from remora.reading.batches import StageData
from remora.training import build, stage
from remora.training.engines.deepspeed import DeepSpeedEngine as Engine
from remora.training.job import StageJob
from remora.training.journal import JOURNAL, read, steps_of, take_over
from remora.training.schedule import rate_factor


def option(name: str) -> str | None:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None


def keep_ledger(job: StageJob, file: Path, die_in: int | None) -> None:
    """Record the positions of the samples of every step taken, in the order of this rank's passes.

    In step `die_in` the process dies after the passes and before the optimiser step.
    """
    first = seed_for(job.seed, f"order/{job.stage.name}") >> 16  # the key of the sample at position 0
    forward, step = Engine.forward, Engine.step
    met: list[int] = []

    def noted_forward(self, batch):
        if batch.supervised:
            met.extend((batch.keys - first).tolist())
        return forward(self, batch)

    def noted_step(self, factor):
        steps = [p // job.stage.batch for p in met]
        if die_in is not None and die_in in steps:
            dist.barrier()
            os._exit(9)
        taken = step(self, factor)
        with file.open("a") as f:
            f.write(json.dumps({"step": steps[0] if steps else None, "positions": met}) + "\n")
        met.clear()
        return taken

    Engine.forward, Engine.step = noted_forward, noted_step


def die_once_saved(at: int) -> None:
    """Let all ranks end when the checkpoint of that step is on disk."""
    gather = stage.Training._checkpoint

    def checkpoint(self, step, at_once=False):
        gather(self, step, at_once=at_once or step == at)
        if step == at:
            os._exit(9)

    stage.Training._checkpoint = checkpoint


def be_overtaken(in_step: int) -> None:
    """Let another attempt begin while the step is taken, as if this process had been thought dead."""
    look_back = stage.Training._look_back

    def looked(self, step, *args):
        if step == in_step and dist.get_rank() == 0:
            take_over(self.job.folder / JOURNAL, step)
        look_back(self, step, *args)

    stage.Training._look_back = looked


def shorten(steps: int) -> None:
    """Let stages end after their first steps, which they take at the rates of the whole stage."""

    class First(StageData):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            whole, self.steps = self.steps, min(steps, self.steps)
            stage.rate_factor = lambda of, step, _: rate_factor(of, step, whole)

    build.StageData = First


def run_settings(job: StageJob, settings: dict[str, dict[str, object]]) -> dict[str, list[dict[str, object]]]:
    """Train the stage from its start once for each setting of the cluster; events, each step with its `passes`."""
    said: dict[str, list[dict[str, object]]] = {}
    passes, forward = 0, Engine.forward

    def counted(self, batch):
        nonlocal passes
        passes += 1
        return forward(self, batch)

    Engine.forward = counted
    for name, cluster in settings.items():
        folder, passes = job.folder / name, 0
        folder.mkdir(exist_ok=True)
        stage.run(replace(job, folder=folder, cluster=job.cluster.model_copy(update=cluster)))
        said[name] = [e for e in read(folder / JOURNAL) if e["event"] in ("step", "dropped", "noted")]
        steps = [e for e in said[name] if e["event"] == "step"]
        for event in steps:
            event["passes"] = passes / len(steps)
    return said


def main() -> None:
    job = StageJob.from_json(Path(sys.argv[1]).read_text())
    dist.init_process_group("gloo")
    if first := option("--first"):
        shorten(int(first))
    if settings := option("--settings"):
        said = run_settings(job, json.loads(settings))
        if "--double" in sys.argv:
            said["float64"] = in_double(job, build.StageData, stage.rate_factor)
        if nudge := option("--nudge"):
            said["nudged"] = in_double(job, build.StageData, stage.rate_factor, float(nudge))
        if dist.get_rank() == 0:
            Path(sys.argv[2]).write_text(json.dumps(said))
        dist.destroy_process_group()
        return
    names = ("--die-after", "--die-in", "--overtaken-in")
    die_after, die_in, overtaken_in = (int(s) if (s := option(name)) else None for name in names)
    if name := option("--ledger"):
        keep_ledger(job, job.folder / f"ledger-{name}-{dist.get_rank()}.jsonl", die_in)

    if die_after is not None:
        die_once_saved(die_after)
    if overtaken_in is not None:
        be_overtaken(overtaken_in)
    stage.run(job)
    if dist.get_rank() == 0:
        events = steps_of(job.folder / JOURNAL)
        said = {"losses": [e["loss"] for e in events], "norms": [e["grad_norm"] for e in events]}
        Path(sys.argv[2]).write_text(json.dumps(said))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
