"""How fast a worker trains, in operations a second: as the run folder's stage runs did, or as is assumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from remora import catalog
from remora.catalog import Device
from remora.catalog.compatibility import check_composition
from remora.errors import RemoraError
from remora.files import is_published
from remora.runs.operations import SampleSize, operations
from remora.spec import Cluster
from remora.training import journal
from remora.training.environment import read_environment
from remora.training.job import StageJob

SHARE = 0.4
"""Of a GPU's peak, that training comes to: assumed where nothing was measured."""
GPU, GPU_WORDS = SHARE * 312e12, "40% of an A100's 312 TFLOP/s in bf16"
CORE, CORE_WORDS = 2e10, "20 GFLOP/s a CPU core"
MOST_RUNS = 4
"""Stage runs of one stage's name that are looked at, the newest first."""
WARM = 2
"""Steps at the start of an attempt that are left out where there are some more: they allocate what later ones reuse."""
CALIBRATION = "calibration"
"""The run folder inside the run folder where `remora plan --calibrate` trains a few steps."""


@dataclass(frozen=True)
class Rate:
    """Operations a second of one worker, counted as in `runs.operations`."""

    overall: float
    source: str
    """Where it is from, in words."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """By the stage's name, where such a stage was measured."""
    besides: Mapping[str, float] = field(default_factory=dict)
    """Seconds of a stage run that are no step, by the stage's name: the model is built, validated and saved."""

    def of(self, stage: str) -> float:
        return self.stages.get(stage, self.overall)

    def around(self, stage: str) -> float:
        """Seconds of a stage run that are no step: as such stages took, or all; 0 where nothing was measured."""
        return self.besides.get(stage, fmean(self.besides.values()) if self.besides else 0.0)


@dataclass(frozen=True)
class _Worked:
    """What a stage run's steps came to."""

    operations: float
    seconds: float
    """Of its steps, times workers."""
    besides: float | None
    """Seconds that were no step; None where an attempt before its last one trained it, too."""


def rate_of(runs: Path, cluster: Cluster, given: float | None = None) -> Rate:
    """The one that is given; else what was measured in the run folder on workers with or without GPUs, as the
    cluster's are; else an assumption."""
    if given:
        return Rate(given, "given by --rate")
    if found := measured(runs, cluster.gpus_per_worker > 0):
        return found
    if cluster.gpus_per_worker:
        return Rate(GPU * cluster.gpus_per_worker, f"assumed: {GPU_WORDS}; --rate gives another")
    return Rate(CORE * cluster.cpus_per_worker, f"assumed: {CORE_WORDS}; --rate gives another")


def rate_on(runs: Path, device: Device, cluster: Cluster, given: float | None = None, counted: bool = True) -> Rate:
    """Operations a second of a worker on a device: as given, as this run folder's journals say, or as is assumed.

    Args:
        counted: Operations are those of traced passes, not `runs.operations`.
    """
    if given:
        return Rate(given, "given by --rate")
    if found := measured(runs, device.is_gpu, device.named, counted):
        return found
    if device.is_gpu:
        words = f"assumed: {SHARE:.0%} of {device.named}'s {device.peak(cluster.precision):.3g} FLOP/s in "
        return Rate(SHARE * device.peak(cluster.precision), f"{words}{cluster.precision}; --rate gives another")
    return Rate(CORE * cluster.cpus_per_worker, f"assumed: {CORE_WORDS}; --rate gives another")


def measured(runs: Path, gpus: bool, device: str | None = None, counted: bool = False) -> Rate | None:
    """What the newest published stage runs came to, or where there are none, those of a calibration; None if there is
    none on such workers.

    Args:
        device: Only those on a device of that name in torch, or of which the journal does not say it.
        counted: By the operations that its journal counted, where it did.
    """
    return _measured(runs, gpus, device, counted) or _measured(runs / CALIBRATION, gpus, device, counted)


def _measured(runs: Path, gpus: bool, device: str | None, counted: bool) -> Rate | None:
    work: dict[str, list[_Worked]] = {}
    there = sorted((f for f in (runs / "stages").glob("*-*") if is_published(f)), key=lambda f: -f.stat().st_mtime)
    for folder in there:
        found = work.setdefault(folder.name.rpartition("-")[0], [])
        if len(found) < MOST_RUNS and (one := _worked(runs, folder, gpus, device, counted)):
            found.append(one)
    each = {stage: found for stage, found in work.items() if found}
    if not each:
        return None
    every = [one for found in each.values() for one in found]
    besides = {stage: [one.besides for one in found if one.besides is not None] for stage, found in each.items()}
    kind = "steps that --calibrate took" if runs.name == CALIBRATION else "stage runs"
    return Rate(
        _speed(every),
        f"measured: {len(every)} {kind if len(every) > 1 else kind.replace('runs', 'run')} of {runs}",
        {stage: _speed(found) for stage, found in each.items()},
        {stage: fmean(found) for stage, found in besides.items() if found},
    )


def _speed(found: list[_Worked]) -> float:
    return sum(one.operations for one in found) / sum(one.seconds for one in found)


def _worked(runs: Path, folder: Path, gpus: bool, device: str | None, counted: bool) -> _Worked | None:
    try:
        job = StageJob.from_json((folder / "job.json").read_text(), runs)
        if (job.cluster.gpus_per_worker > 0) != gpus:
            return None
        parts = {part: job.parts[part].name for part in job.stage.tune.present}
        events = list(journal.read(folder / journal.JOURNAL))
        embeddings = 0
        if "vision" in parts:
            kinds = catalog.vision(parts["vision"]), catalog.connector(parts["connector"]), catalog.llm(parts["llm"])
            embeddings = check_composition(*kinds)
        workers, attempts, steps = job.cluster.least_workers, 0, list[tuple[float, float]]()
        cold = set[int]()
        for e in events:
            if e["event"] == "started":
                workers, attempts = e.get("workers", workers), attempts + 1
                cold |= set(range(len(steps), len(steps) + WARM))
                ran_on = read_environment(e.get("environment"))
                if device and ran_on and (ran_on["gpu"] or "cpu") != device:
                    return None
            if e["event"] != "step" or not e.get("samples_per_second") or not e.get("tokens_per_second"):
                continue
            took = e["samples"] / e["samples_per_second"]
            done = e.get("flops") if counted else None
            if done is None:
                positions = e["tokens_per_second"] * took / e["samples"]
                size = SampleSize(max(1.0, positions - embeddings), 1.0 if embeddings else 0.0)
                done = operations(job.stage, parts, e["samples"], size)
            steps.append((done, took * workers))
    except (OSError, ValueError, KeyError, RemoraError):  # of another version, or with an entry that is not here
        return None
    if not steps:
        return None
    warm = [step for i, step in enumerate(steps) if i not in cold] if len(steps) > 2 * WARM * attempts else steps
    work, seconds = (sum(column) for column in zip(*warm, strict=True))
    whole = sum(done for done, _ in steps) * seconds / work / workers
    besides = _recorded(folder) if attempts == 1 else None
    return _Worked(work, seconds, None if besides is None else max(0.0, besides - whole))


def _recorded(folder: Path) -> float | None:
    """Seconds of a stage run's last attempt, from building the model on."""
    try:
        seconds = json.loads((folder / "record.json").read_text())["seconds"]
    except (OSError, ValueError, KeyError):
        return None
    return float(seconds) if isinstance(seconds, int | float) else None
