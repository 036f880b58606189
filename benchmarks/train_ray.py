"""A stage under Ray Train, under torchrun, and under torchrun with the default allocator settings.

All have the same job file and run the same loop.

Runs alternate, because a machine's speed drifts by more than they differ. Ray's cost before the first step and
after the last is not part of the step time and is listed separately. With as many ranks as cores, Ray's own
dozen processes compete with the ranks; with one rank fewer they have their own core, as they have beside
ranks that wait for a GPU.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from loading import STEPS, demo_job

from remora.spec import Cluster
from remora.training.job import StageJob

TURNS = 3
RANKS = (1, 2)
UNTIMED = 5
"""Steps at the start of a run that are not counted."""

GIVEN_BACK = "torchrun, freed memory given back"
UNKEPT = (
    "import runpy; from remora.training import stage; stage.keep_freed = lambda: False; "
    "runpy.run_module('remora.training', run_name='__main__')"
)
"""A stage with glibc's default malloc settings."""


def under_torchrun(job: Path, ranks: int, kept: bool = True) -> Path:
    """The folder of the stage run."""
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    program = ["-m", "remora.training"] if kept else ["--no-python", sys.executable, "-W", "ignore", "-c", UNKEPT]
    command = [*torchrun, "--nproc-per-node", str(ranks), *program, str(job)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return job.parent


def under_ray(job: Path, ranks: int) -> Path:
    """The folder of the stage run, which Ray's workers publish."""
    from remora.cluster.train import train_stages
    from remora.pipeline.executor import Task
    from remora.pipeline.feed import Feed

    told = StageJob.from_json(job.read_text())
    name = job.parent.name.removesuffix(".work")
    task, runs = Task(name, told, {}, job.parents[2] / "status.jsonl"), job.parents[2]
    with Feed.fresh(runs, [task], closed=True) as feed:
        train_stages(feed, told.cluster, runs)
    return job.parent.with_name(name)


WAYS: dict[str, Callable[[Path, int], Path]] = {
    "torchrun": under_torchrun,
    "Ray Train": under_ray,
    GIVEN_BACK: partial(under_torchrun, kept=False),
}


def against_torchrun(runs: Path) -> list[str]:
    """`runs` has the demo's data."""
    from remora.cluster.session import ray_session

    lines = [
        f"The demo's alignment, {STEPS} steps, in turns. Medians over all steps of {TURNS} runs but the first of each."
    ]
    lines += ["", "| | ranks | step, ms | of each run | against torchrun | whole run, s |", "| --- " * 6 + "|"]
    with tempfile.TemporaryDirectory() as tmp, ray_session(dashboard=False):
        for ranks in RANKS:
            lines += _in_turns(
                replace(demo_job(runs), cluster=Cluster(workers=ranks, micro_batch=16, zero=0)), Path(tmp)
            )
    return [*lines, "", "The losses of all runs on as many ranks are equal."]


def _in_turns(job: StageJob, tmp: Path) -> list[str]:
    """The table's lines for one number of ranks."""
    from remora.training.journal import JOURNAL, steps_of

    ranks = job.cluster.most_workers
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    whole: dict[str, list[float]] = {way: [] for way in WAYS}
    losses = set()
    for turn in range(TURNS):
        for number, (way, under) in enumerate(WAYS.items()):
            work = tmp / "stages" / f"{number}-{ranks}-{turn}.work"
            work.mkdir(parents=True)
            (work / "job.json").write_text(replace(job, folder=work).to_json())
            began = time.monotonic()
            done = under(work / "job.json", ranks)
            whole[way].append(time.monotonic() - began)
            taken = steps_of(done / JOURNAL)
            found[way].append([e["samples"] / e["samples_per_second"] for e in taken][UNTIMED:])
            losses.add(json.dumps([e["loss"] for e in taken]))
            sys.stderr.write(f"{way}, {ranks} ranks, turn {turn}: {statistics.median(found[way][-1]):.4f} s\n")
    if len(losses) > 1:
        sys.exit(f"the losses of {TURNS * len(WAYS)} runs are not the same")
    middle = {way: statistics.median(s for run in runs for s in run) for way, runs in found.items()}
    lines = []
    for way, runs in found.items():
        each = ", ".join(f"{1000 * statistics.median(run):.0f}" for run in runs)
        lines.append(
            f"| {way} | {ranks} | {1000 * middle[way]:.1f} | {each} | {middle[way] / middle['torchrun'] - 1:+.1%} "
            f"| {statistics.median(whole[way]):.0f} |"
        )
    return lines
