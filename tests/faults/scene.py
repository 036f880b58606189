"""A small stage on two workers of real Ray, the process that drives it, and how its journal records a fault."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from remora.spec import Cluster
from remora.training.job import StageJob
from remora.training.journal import read
from support.exact_stages import mixed_job
from support.waiting import until

HERE = Path(__file__).parent
STEPS, EVERY = 100, 10
TWO = {"workers": 2, "zero": 2, "micro_batch": 2, "checkpoint_every": EVERY}


class Stage:
    """One stage run and its folders."""

    def __init__(self, root: Path, name: str, steps: int = STEPS, **cluster: Any) -> None:
        self.name, self.runs, self.steps = name, root / "runs", steps
        self.work = self.runs / "stages" / f"{name}.work"
        self.work.mkdir(parents=True)
        # A small rate: another number of workers sums in another order, and many steps would make that visible.
        made = mixed_job(root / name, steps=steps, lr=1e-5)
        self.job: StageJob = dataclasses.replace(
            made, folder=self.work, cluster=Cluster.model_validate({**TWO, **cluster})
        )
        (self.work / "job.json").write_text(self.job.to_json())  # published with the run

    def events(self, kind: str) -> list[dict[str, Any]]:
        done = self.runs / "stages" / self.name / "journal.jsonl"
        return [e for e in read(done if done.exists() else self.work / "journal.jsonl") if e["event"] == kind]

    def reaches(self, step: int) -> None:
        until(f"step {step}", lambda: any(e["step"] >= step for e in self.events("step")))

    def pid(self, rank: int) -> int:
        return int((self.work / f"worker-{rank}.pid").read_text())

    def losses(self) -> list[float]:
        """Of all steps, each of which the journal has once and in order."""
        steps = self.events("step")
        assert [e["step"] for e in steps] == list(range(self.steps))
        return [e["loss"] for e in steps]

    def lost_and_seconds(self, at: float) -> tuple[int, float]:
        """Steps that were taken twice after a fault at that time, and the seconds until the next step."""
        started = next(e for e in self.events("started") if e["time"] > at)
        after = min(e["time"] for e in self.events("step") if e["time"] > started["time"])
        return started["again"], after - at


class Driver:
    """The process that trains, and its Ray cluster unless it is given one."""

    def __init__(self, runs: Path, address: str | None = None, **env: str) -> None:
        runs.mkdir(parents=True, exist_ok=True)
        self.log = runs / f"driver-{time.time_ns()}.log"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "REMORA_", "MLFLOW_"))}
        command = [sys.executable, "-W", "ignore", str(HERE / "drive.py"), str(runs), *([address] if address else [])]
        environ = {**kept, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", **env}
        with self.log.open("w") as err:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True, env=environ
            )
        assert self.says() == "ready", self.log.read_text()

    def trains(self, stage: Stage) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"name": stage.name, "job": stage.job.to_json()}) + "\n")
        self.process.stdin.flush()

    def says(self) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("drive: "):
                return line.removeprefix("drive: ").strip()
        return "nothing: it ended"

    def end(self) -> None:
        """At once, whatever it is doing."""
        self.process.kill()
        self.stop()

    def stop(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]


def children(pid: int) -> list[int]:
    """Every descendant of a process, without itself."""
    return [p.pid for p in psutil.Process(pid).children(recursive=True)]


def actors(driver: Driver, name: str) -> list[int]:
    """Processes of Ray actors of a class: Ray writes the class into their title."""
    found = []
    for pid in children(driver.process.pid):
        try:
            if f"ray::{name}" in " ".join(psutil.Process(pid).cmdline()):
                found.append(pid)
        except psutil.Error:
            continue
    return found
