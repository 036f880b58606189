"""How fast a worker trains, in operations a second: as the run folder's stage runs did, or as is assumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from remora import catalog
from remora.catalog import Device
from remora.catalog.compatibility import check_composition
from remora.data.held_out import opened
from remora.errors import RemoraError
from remora.files import is_published
from remora.runs.operations import SampleSize, operations, sample_size
from remora.spec import PARTS, Cluster
from remora.training import journal
from remora.training.environment import read_environment
from remora.training.events import JournalEvent, StepEvent
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
OF = " of "
"""Between a stage's name and its parts, in a kind of stage."""


def kind_of(stage: str, parts: Mapping[str, str]) -> str:
    """Stages that one rate is for: `finetune of clip-l-336, mlp2x_gelu, phi-2`."""
    return f"{stage}{OF}{', '.join(parts[part] for part in sorted(parts, key=PARTS.index))}"


@dataclass(frozen=True)
class Rate:
    """Operations a second of one worker, counted as in `runs.operations`."""

    overall: float
    source: str
    """Where it is from, in words."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """By the stage's kind (`kind_of`) and by its name, where such a stage was measured."""
    besides: Mapping[str, float] = field(default_factory=dict)
    """Seconds of a stage run that are no step, by the same: the model is built, validated and saved."""

    def of(self, kind: str) -> float:
        """Of a stage of that kind: as such stages came to, or all of that name, or all."""
        return self.stages.get(kind, self.stages.get(kind.partition(OF)[0], self.overall))

    def around(self, kind: str) -> float:
        """Seconds of a stage run that are no step; 0 where nothing was measured."""
        every = fmean(self.besides.values()) if self.besides else 0.0
        return self.besides.get(kind, self.besides.get(kind.partition(OF)[0], every))


@dataclass(frozen=True)
class _Worked:
    """What a stage run's steps came to."""

    kind: str
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
    """What the newest published stage runs came to, and those of a calibration where there are none of that kind; None
    if there is none on such workers.

    Args:
        device: Only those on a device of that name in torch, or of which the journal does not say it.
        counted: By the operations that its journal counted, where it did.
    """
    own = _work(runs, gpus, device, counted)
    known = {one.kind for one in own}
    tried = [one for one in _work(runs / CALIBRATION, gpus, device, counted) if one.kind not in known]
    if not own and not tried:
        return None
    named: dict[str, list[_Worked]] = {}
    for one in [*own, *tried]:
        named.setdefault(one.kind, []).append(one)
        named.setdefault(one.kind.partition(OF)[0], []).append(one)
    besides = {name: [one.besides for one in found if one.besides is not None] for name, found in named.items()}
    sources = [f"{len(own)} stage run{'s' * (len(own) > 1)} of {runs}"] if own else []
    sources += [f"{len(tried)} stage{'s' * (len(tried) > 1)} that --calibrate took steps of"] if tried else []
    return Rate(
        _speed([*own, *tried]),
        f"measured: {' and '.join(sources)}",
        {name: _speed(found) for name, found in named.items()},
        {name: fmean(found) for name, found in besides.items() if found},
    )


def _work(runs: Path, gpus: bool, device: str | None, counted: bool) -> list[_Worked]:
    """Of the newest stage runs, some of each stage's name."""
    looked: dict[str, list[_Worked]] = {}
    for folder in published(runs):
        found = looked.setdefault(folder.name.rpartition("-")[0], [])
        if len(found) < MOST_RUNS and (one := _worked(runs, folder, gpus, device, counted)):
            found.append(one)
    return [one for found in looked.values() for one in found]


def published(runs: Path) -> list[Path]:
    """The folders of published stage runs, the newest first."""
    there = (f for f in (runs / "stages").glob("*-*") if is_published(f))
    return sorted(there, key=lambda f: -f.stat().st_mtime)


def _speed(found: list[_Worked]) -> float:
    return sum(one.operations for one in found) / sum(one.seconds for one in found)


def _worked(runs: Path, folder: Path, gpus: bool, device: str | None, counted: bool) -> _Worked | None:
    try:
        job = StageJob.from_json((folder / "job.json").read_text(), runs)
        if (job.cluster.gpus_per_worker > 0) != gpus:
            return None
        events = list(journal.read(folder / journal.JOURNAL))
        if device and any(_elsewhere(e, device) for e in events):
            return None
        parts = {part: job.parts[part].name for part in job.stage.tune.present}
        operations_of = _counting(job, parts, counted)
        workers, attempts, steps = job.cluster.least_workers, 0, list[tuple[float, float]]()
        cold = set[int]()
        for e in events:
            if e["event"] == "started":
                workers, attempts = e.get("workers", workers), attempts + 1
                cold |= set(range(len(steps), len(steps) + WARM))
            if e["event"] == "step" and e.get("samples_per_second") and e.get("tokens_per_second"):
                steps.append((operations_of(e), e["samples"] / e["samples_per_second"] * workers))
    except (OSError, ValueError, KeyError, RemoraError):  # of another version, or with an entry that is not here
        return None
    if not steps:
        return None
    warm = [step for i, step in enumerate(steps) if i not in cold] if len(steps) > 2 * WARM * attempts else steps
    work, seconds = (sum(column) for column in zip(*warm, strict=True))
    whole = sum(done for done, _ in steps) * seconds / work / workers
    recorded = _recorded(folder) if attempts == 1 else None
    besides = None if recorded is None else max(0.0, recorded - whole)
    return _Worked(kind_of(job.stage.name, parts), work, seconds, besides)


def _elsewhere(event: JournalEvent, device: str) -> bool:
    """Whether an attempt started on another device."""
    ran_on = read_environment(event.get("environment")) if event["event"] == "started" else None
    return ran_on is not None and (ran_on["gpu"] or "cpu") != device


def _counting(job: StageJob, parts: Mapping[str, str], counted: bool) -> Callable[[StepEvent], float]:
    """The operations of a step with figures of its speed.

    Plans estimate the length of a sample; measured by the same estimate, its error cancels out.
    """
    embeddings = 0
    if "vision" in parts:
        kinds = catalog.vision(parts["vision"]), catalog.connector(parts["connector"]), catalog.llm(parts["llm"])
        embeddings = check_composition(*kinds)
    size = _planned(job)
    planned = operations(job.stage, parts, 1, size) if size else None

    def of(step: StepEvent) -> float:
        done = step.get("flops") if counted else None
        if planned is not None and done is None:
            return step["samples"] * planned
        positions = step["tokens_per_second"] / step["samples_per_second"]
        real = SampleSize(max(1.0, positions - embeddings), 1.0 if embeddings else 0.0)
        taken = operations(job.stage, parts, 1, real)
        if done is None:
            return step["samples"] * taken
        return done if planned is None else done * planned / taken

    return of


def _planned(job: StageJob) -> SampleSize | None:
    """What a plan takes a sample of the stage's data to be; None where its data is not here."""
    try:
        datasets = opened(job.stage, job.datasets)
    except (OSError, ValueError, RemoraError):
        return None
    size = sample_size(datasets)
    return None if size.assumed or not datasets else size


def _recorded(folder: Path) -> float | None:
    """Seconds of a stage run's last attempt, from building the model on."""
    try:
        seconds = json.loads((folder / "record.json").read_text())["seconds"]
    except (OSError, ValueError, KeyError):
        return None
    return float(seconds) if isinstance(seconds, int | float) else None
