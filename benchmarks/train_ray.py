"""A stage under Ray Train against the same stage under torchrun: two ranks, the same job file, the same loop.

Taken turns with, because a machine's pace drifts by more than the two differ. What Ray costs before the first step and
after the last is not in a step's time; it is given beside it.
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

TURNS = 3
UNTIMED = 5
"""Steps at the start of a run that are not counted."""


def under_torchrun(job: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ranks = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*ranks, "--master-port", str(port), "-m", "remora.training", str(job)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def under_ray(job: Path) -> None:
    from remora.cluster.train import Task, train_stages
    from remora.training.job import StageJob

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
    from remora.training.journal import read

    found: dict[str, list[list[float]]] = {"torchrun": [], "Ray Train": []}
    whole: dict[str, list[float]] = {"torchrun": [], "Ray Train": []}
    losses = set()
    with tempfile.TemporaryDirectory() as tmp, ray_session(dashboard=False):
        job = demo_job(runs)
        for turn in range(TURNS):
            for way in found:
                work = Path(tmp) / "stages" / f"{way.split()[0]}-{turn}.work"
                work.mkdir(parents=True)
                (work / "job.json").write_text(replace(job, folder=work).to_json())
                began = time.monotonic()
                (under_torchrun if way == "torchrun" else under_ray)(work / "job.json")
                whole[way].append(time.monotonic() - began)
                journal = (work if way == "torchrun" else work.with_suffix("")) / "journal.jsonl"
                found[way].append(steps_of(journal))
                losses.add(json.dumps([e["loss"] for e in read(journal) if e["event"] == "step"]))
                sys.stderr.write(f"{way} turn {turn}: {statistics.median(found[way][-1]):.4f} s\n")
    if len(losses) > 1:
        sys.exit(f"the losses of {TURNS * 2} runs are not the same")
    middle = {way: statistics.median(s for run in steps for s in run) for way, steps in found.items()}
    lines = ["| | step, ms | of each run | against torchrun | whole run, s |", "| --- | --- | --- | --- | --- |"]
    for way, steps in found.items():
        each = ", ".join(f"{1000 * statistics.median(run):.0f}" for run in steps)
        lines.append(
            f"| {way} | {1000 * middle[way]:.1f} | {each} | {middle[way] / middle['torchrun'] - 1:+.1%} "
            f"| {statistics.median(whole[way]):.0f} |"
        )
    about = f"The demo's alignment, {STEPS} steps, two ranks of one thread, in turns; the losses of all runs are equal."
    return [about, "", *lines]
