"""How fast a worker trains, in operations a second: as the run folder's stage runs did, or as is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from remora import catalog
from remora.catalog.compatibility import check_composition
from remora.errors import RemoraError
from remora.files import is_published
from remora.runs.operations import SampleSize, operations
from remora.spec import Cluster
from remora.training import journal
from remora.training.environment import read_environment
from remora.training.job import StageJob

GPU, GPU_WORDS = 0.4 * 312e12, "40% of an A100's 312 TFLOP/s in bf16"
CORE, CORE_WORDS = 2e10, "20 GFLOP/s a CPU core"
MOST_RUNS = 4
"""Stage runs of one stage's name that are looked at, the newest first."""


@dataclass(frozen=True)
class Rate:
    """Operations a second of one worker, counted as in `runs.operations`."""

    overall: float
    source: str
    """Where it is from, in words."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """By the stage's name, where such a stage was measured."""

    def of(self, stage: str) -> float:
        return self.stages.get(stage, self.overall)


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


def measured(runs: Path, gpus: bool, device: str | None = None) -> Rate | None:
    """What the newest published stage runs came to; None if there is none on such workers.

    Args:
        device: Only those on a device of that name in torch, or of which the journal does not say it.
    """
    looked: dict[str, int] = {}
    work: dict[str, list[tuple[float, float]]] = {}
    there = sorted((f for f in (runs / "stages").glob("*-*") if is_published(f)), key=lambda f: -f.stat().st_mtime)
    for folder in there:
        stage = folder.name.rpartition("-")[0]
        if looked.get(stage, 0) < MOST_RUNS and (found := _worked(runs, folder, gpus, device)):
            looked[stage] = looked.get(stage, 0) + 1
            work.setdefault(stage, []).append(found)
    if not work:
        return None
    each = {stage: sum(ops for ops, _ in found) / sum(s for _, s in found) for stage, found in work.items()}
    every = [pair for found in work.values() for pair in found]
    overall = sum(ops for ops, _ in every) / sum(s for _, s in every)
    return Rate(overall, f"measured: {len(every)} stage runs of {runs}", each)


def _worked(runs: Path, folder: Path, gpus: bool, device: str | None) -> tuple[float, float] | None:
    """(operations, seconds times workers) of a stage run's steps."""
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
        workers, found, seconds = job.cluster.least_workers, 0.0, 0.0
        for e in events:
            if e["event"] == "started":
                workers = e.get("workers", workers)
                ran_on = read_environment(e.get("environment"))
                if device and ran_on and (ran_on["gpu"] or "cpu") != device:
                    return None
            if e["event"] != "step" or not e.get("samples_per_second") or not e.get("tokens_per_second"):
                continue
            took = e["samples"] / e["samples_per_second"]
            positions = e["tokens_per_second"] * took / e["samples"]
            size = SampleSize(max(1.0, positions - embeddings), 1.0 if embeddings else 0.0)
            found += operations(job.stage, parts, e["samples"], size)
            seconds += took * workers
    except (OSError, ValueError, KeyError, RemoraError):  # of another version, or with an entry that is not here
        return None
    return (found, seconds) if seconds else None
