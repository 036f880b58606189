"""A stage under Ray Train against the same stage under torchrun, and under torchrun with an allocator left as it is.

All have the same job file and run the same loop.

Taken turns with, because a machine's pace drifts by more than the two differ. What Ray costs before the first step and
after the last is not in a step's time; it is given beside it. With as many ranks as the machine has cores, Ray's own
dozen processes take their time from the ranks; with one rank fewer they have a core of their own, as they have beside
ranks that wait for a GPU.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
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
"""A stage whose process leaves glibc's malloc as it is."""


def under_torchrun(job: Path, ranks: int, kept: bool = True) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    program = ["-m", "remora.training"] if kept else ["--no-python", sys.executable, "-W", "ignore", "-c", UNKEPT]
    command = [*launch, "--master-port", str(port), *program, str(job)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def under_ray(job: Path) -> None:
    from remora.cluster.train import Task, train_stages

    told = StageJob.from_json(job.read_text())
    name = job.parent.name.removesuffix(".work")
    train_stages([Task(name, told, {})], told.cluster, job.parents[2], job.parents[2] / "status.jsonl")


def steps_of(journal: Path) -> list[float]:
    """Seconds of every step but the first few."""
    from remora.training.journal import read

    steps = [e for e in read(journal) if e["event"] == "step"]
    return [e["samples"] / e["samples_per_second"] for e in steps][UNTIMED:]


def against_torchrun(runs: Path) -> list[str]:
    """`runs` holds the demo's data."""
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
    """The table's two lines for one number of ranks."""
    from remora.training.journal import read

    ranks = job.cluster.most_workers
    found: dict[str, list[list[float]]] = {"torchrun": [], "Ray Train": [], GIVEN_BACK: []}
    whole: dict[str, list[float]] = {way: [] for way in found}
    losses = set()
    for turn in range(TURNS):
        for way in found:
            work = tmp / "stages" / f"{list(found).index(way)}-{ranks}-{turn}.work"
            work.mkdir(parents=True)
            (work / "job.json").write_text(replace(job, folder=work).to_json())
            began = time.monotonic()
            if way == "Ray Train":
                under_ray(work / "job.json")
            else:
                under_torchrun(work / "job.json", ranks, kept=way != GIVEN_BACK)
            whole[way].append(time.monotonic() - began)
            journal = (work.with_suffix("") if way == "Ray Train" else work) / "journal.jsonl"
            found[way].append(steps_of(journal))
            losses.add(json.dumps([e["loss"] for e in read(journal) if e["event"] == "step"]))
            sys.stderr.write(f"{way}, {ranks} ranks, turn {turn}: {statistics.median(found[way][-1]):.4f} s\n")
    if len(losses) > 1:
        sys.exit(f"the losses of {TURNS * len(found)} runs are not the same")
    middle = {way: statistics.median(s for run in steps for s in run) for way, steps in found.items()}
    lines = []
    for way, steps in found.items():
        each = ", ".join(f"{1000 * statistics.median(run):.0f}" for run in steps)
        lines.append(
            f"| {way} | {ranks} | {1000 * middle[way]:.1f} | {each} | {middle[way] / middle['torchrun'] - 1:+.1%} "
            f"| {statistics.median(whole[way]):.0f} |"
        )
    return lines
