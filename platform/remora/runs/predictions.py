"""What was predicted of a stage run before its first step, beside what came: stored with it, and read again by plans.

<runs>/stages/<stage>-<identity>.work/predicted.json    before it trains
<runs>/stages/<stage>-<identity>/record.json            "predicted" and "came", when it is published
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median

from remora import catalog
from remora.catalog import Device
from remora.data.held_out import opened
from remora.files import write_json
from remora.processes import cpu_kind
from remora.runs.operations import operations, sample_size
from remora.runs.preflight import outlook
from remora.runs.rates import CALIBRATION, kind_of, published, rate_on
from remora.spec import Cluster
from remora.training import totals
from remora.training.events import JournalEvent
from remora.training.job import StageJob

log = logging.getLogger(__name__)
PREDICTED = "predicted.json"
LOOKED_AT = 12
"""Maximum predictions that a plan uses and prints: the newest ones."""


@dataclass(frozen=True)
class Figures:
    """What a stage run takes; None where it is not known."""

    memory: float | None = None
    """GiB of a rank at its peak: on a GPU what its allocator gave out, on a CPU the process."""
    step: float | None = None
    """Seconds of an optimiser step, with waiting for its batches."""
    seconds: float | None = None
    """By the clock, from building the model on."""
    cost: float | None = None
    """None without a price, or without GPUs."""


@dataclass(frozen=True)
class Prediction:
    """What was predicted of a stage run."""

    device: str
    """The GPU's name in torch, or the kind of CPU."""
    workers: int
    figures: Figures
    tensors: float | None
    """GiB of a rank's tensors, of `figures.memory`."""
    source: str
    """Where its rate is from, in words."""


@dataclass(frozen=True)
class CheckedPrediction:
    """A prediction beside what came."""

    prediction: Prediction
    came: Figures

    def error(self, name: str) -> float | None:
        """The relative error of a figure: above 0 if more was predicted than came."""
        said, came = getattr(self.prediction.figures, name), getattr(self.came, name)
        return said / came - 1 if said is not None and came else None


def device_of(gpu: str | None) -> Device:
    """The catalog's entry of a GPU by its name in torch, or one with nothing but its name; without a GPU the CPU."""
    if gpu is None:
        return catalog.device("cpu")
    known = catalog.listed(Device).values()
    guess = {"bf16": 312e12, "fp16": 312e12, "fp32": 19.5e12}  # an A100's
    other = Device(named=gpu, memory=1 << 20, source="not in the catalog", **guess)
    return next((device for device in known if device.named == gpu), other)


def predict(job: StageJob, runs: Path, workers: int, gpu: str | None) -> Prediction:
    """Predict a stage run on these workers. It loads torch.

    Args:
        gpu: The GPU's name in torch; None for a CPU.

    Raises:
        SpecError: its memory cannot be predicted.
    """
    from remora.runs.memory import GIB, PlacedStage, stage_memory

    stage, cluster = job.stage, job.cluster
    parts = {part: job.parts[part].name for part in stage.tune.present}
    device, datasets = device_of(gpu), opened(stage, job.datasets)
    (steps, samples), _ = outlook(stage, datasets, there=True)
    rate = rate_on(runs, device, cluster, counted=False)
    work = operations(stage, parts, samples, sample_size(datasets))
    kind = kind_of(stage.name, parts)
    took = work / (rate.of(kind) * workers)
    seconds = took + rate.around(kind)
    tensors = stage_memory(PlacedStage(stage, parts, cluster, workers, device, datasets)).traced.peak
    memory = tensors + (0 if device.is_gpu else process_memory(runs))
    figures = Figures(memory / GIB, took / steps, seconds, cost_of(seconds, workers, cluster))
    return Prediction(gpu or cpu_kind(), workers, figures, tensors / GIB, rate.source)


def foretell(job: StageJob, runs: Path, workers: int, gpu: str | None) -> None:
    """Store the prediction of a stage run that begins, unless an earlier attempt did. An error is logged, and
    training goes on."""
    file = job.folder / PREDICTED
    if file.exists():
        return
    try:
        write_json(file, asdict(predict(job, runs, workers, gpu)))
    except Exception as e:  # noqa: BLE001  a statistic; whatever it is, the stage trains
        log.warning("stage %r: what it takes was not predicted: %s: %s", job.stage.name, type(e).__name__, e)


def came(job: StageJob, events: Sequence[JournalEvent], seconds: float) -> Figures:
    """What a stage run took that was trained to its end.

    Args:
        events: Of its journal.
        seconds: Of its last attempt.
    """
    started = [e for e in events if e["event"] == "started"]
    steps = totals.counted(events)
    workers = {e.get("workers", 0) for e in started}
    memory = [m for e in steps if (m := e.get("memory"))]
    took = [e["samples"] / speed for e in steps if e.get("samples") and (speed := e.get("samples_per_second"))]
    whole = seconds if len(started) == 1 else None
    return Figures(
        max(memory, default=None),
        sum(took) / len(took) if took and len(workers) == 1 else None,
        whole,
        cost_of(whole, max(workers), job.cluster) if whole is not None and workers else None,
    )


def cost_of(seconds: float, workers: int, cluster: Cluster) -> float | None:
    """Money for so many seconds of so many workers."""
    if cluster.gpu_price is None or not cluster.gpus_per_worker:
        return None
    return seconds / 3600 * workers * cluster.gpus_per_worker * cluster.gpu_price


def told(job: StageJob, events: Sequence[JournalEvent], seconds: float) -> dict[str, object]:
    """What a stage run's record says of its prediction: nothing where there was none."""
    try:
        said = json.loads((job.folder / PREDICTED).read_text())
    except (OSError, ValueError):
        return {}
    return {"predicted": said, "came": asdict(came(job, events, seconds))}


def checked_predictions(runs: Path, device: str | None = None) -> list[CheckedPrediction]:
    """The newest predictions of published stage runs beside what came, the last one first; of one kind of device, if it
    is given. No more records are read than that takes."""
    found = (_read(folder / "record.json") for folder in published(runs))
    return list(islice((one for one in found if one and device in (None, one.prediction.device)), LOOKED_AT))


def _read(record: Path) -> CheckedPrediction | None:
    try:
        said = json.loads(record.read_text())
        predicted, after = said["predicted"], Figures(**said["came"])
        return CheckedPrediction(Prediction(**{**predicted, "figures": Figures(**predicted["figures"])}), after)
    except (OSError, ValueError, KeyError, TypeError):  # of another version, or without a prediction
        return None


def record_line(found: Sequence[CheckedPrediction]) -> str:
    """How predictions on a kind of device came out: `last 12 predictions …: memory -3 … +6 %, time -11 … +9 %`."""
    said = []
    for words, name in (("memory", "memory"), ("time of a step", "step"), ("whole time", "seconds"), ("cost", "cost")):
        errors = [100 * e for one in found if (e := one.error(name)) is not None]
        if errors:
            said.append(f"{words} {min(errors):+.0f} … {max(errors):+.0f} %")
    which = f"last {len(found)} predictions" if len(found) > 1 else "last prediction"
    return f"{which} on this kind of device ({found[0].prediction.device}): {', '.join(said)}" if said else ""


def process_memory(runs: Path) -> int:
    """Bytes of a training process on a CPU besides its tensors: as the last stage runs on it took, or a
    calibration, or assumed."""
    from remora.runs.memory import GIB, PROCESS

    found = checked_predictions(runs, cpu_kind()) or checked_predictions(runs / CALIBRATION, cpu_kind())
    took = [
        one.came.memory - one.prediction.tensors
        for one in found
        if one.came.memory is not None and one.prediction.tensors is not None
    ]
    return int(median(took) * GIB) if took else PROCESS
