"""The stage runs of a model, each from its own files: record.json, job.json, journal.jsonl."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from remora.data.skipped import EntryCounts
from remora.errors import RemoraError
from remora.files import is_published, read_object
from remora.model.refs import SourceRecord
from remora.sharing import around
from remora.spec import MixtureEntry
from remora.training import journal, totals
from remora.training.environment import EnvironmentRecord, differences, each_once, environment
from remora.training.job import StageJob
from remora.training.journal import JOURNAL


@dataclass(frozen=True)
class StageOrigin:
    """One stage run, as far as its files say."""

    name: str
    stage: str
    parent: str | None
    identity: str
    trained: tuple[str, ...]
    """Parts."""
    seed: int | None
    steps: int
    """Optimiser steps that count."""
    samples: int
    loss: float | None
    """Of its last step, in nats a supervised token."""
    seconds: float
    """That its attempts trained, by the clock."""
    workers: int
    gpus_per_worker: float
    gpu_price: float | None
    began: str
    """UTC; empty if unknown."""
    environments: tuple[EnvironmentRecord, ...]
    """What its attempts ran on; empty if that was not recorded."""
    otherwise: tuple[str, ...]
    """In what these differ from what is here."""
    settings: Mapping[str, object]
    """The resolved stage."""
    energy: Mapping[str, float] | None = None
    """Joules by counter (gpu_joules, cpu_joules); empty if none could be read, None if that was not recorded."""
    read: tuple[EntryCounts, ...] = ()
    """The entries of its mixture: records, and those left out by kind."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Dataset -> digest, as recorded when it was trained."""
    sources: Mapping[str, SourceRecord] = field(default_factory=dict)
    """Part -> where it came from, as recorded when it was trained."""

    @property
    def gpu_hours(self) -> float:
        return self.seconds / 3600 * self.workers * self.gpus_per_worker

    @property
    def cost(self) -> float | None:
        """At the spec's price of a GPU-hour."""
        return None if self.gpu_price is None else self.gpu_hours * self.gpu_price


def stages_of(runs: Path, names: Sequence[str]) -> tuple[list[StageOrigin], list[str]]:
    """(Those of the names whose files are here, what is missing)."""
    found, gaps = [], dict[str, list[str]]()
    for name in names:
        folder = runs / "stages" / name
        if shared := around(folder):
            shared.bring(folder)
        if not is_published(folder):
            gaps.setdefault(f"it is not in {runs / 'stages'}", []).append(name)
            continue
        stage, lost = stage_origin(folder)
        found.append(stage)
        for what in lost:
            gaps.setdefault(what, []).append(name)
    return found, [f"{', '.join(of)}: {what}" for what, of in gaps.items()]


def lineage_names(runs: Path, name: str) -> list[str]:
    """The names of a stage run and of those before it, the first one first, by their records."""
    found = [name]
    while parent := _text(read_object(runs / "stages" / found[0] / "record.json").get("parent")):
        if parent in found:  # a record that was edited
            break
        found.insert(0, parent)
    return found


def stage_job(folder: Path, runs: Path) -> StageJob | None:
    """The job of a stage run; None if its file cannot be read."""
    try:
        return StageJob.from_json((folder / "job.json").read_text(), runs)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, RemoraError):
        return None


@dataclass(frozen=True)
class DataRead:
    """A dataset as a stage run read it."""

    number: int
    """Its place in the mixture."""
    entry: MixtureEntry
    index: Path
    """The folder of its index, which may be gone."""
    digest: str | None
    """As recorded when it was trained, or else its index's; None if neither is there."""


def data_read(folder: Path, runs: Path) -> list[DataRead]:
    """What a published stage run read, in its mixture's order; nothing if its job.json cannot be read.
    It reads no more of that than it needs, so that other releases' jobs do."""
    job = read_object(folder / "job.json")
    mixture, folders = _dict(job.get("stage")).get("mixture"), job.get("datasets")
    if not isinstance(mixture, list) or not isinstance(folders, list):
        return []
    recorded, found = _digests(read_object(folder / "record.json")), []
    for number, (said, place) in enumerate(zip(mixture, folders, strict=False)):
        try:
            entry = MixtureEntry.model_validate(said)
        except ValueError:  # of another release
            continue
        index = runs / str(place)
        known = recorded.get(entry.label) or _text(read_object(index / "index.json").get("digest"))
        found.append(DataRead(number, entry, index, known or None))
    return found


def stage_origin(folder: Path) -> tuple[StageOrigin, list[str]]:
    """(What the files of a published stage run say, what they lack)."""
    record, job = read_object(folder / "record.json"), read_object(folder / "job.json")
    events = journal.load(folder / JOURNAL).records
    steps = totals.counted(events)
    started = [e for e in events if e["event"] == "started"]
    cluster, settings = _dict(job.get("cluster")), _dict(job.get("stage"))
    ran_on = each_once(totals.environments(events))
    gaps = [] if record else ["record.json cannot be read"]
    gaps += [] if settings else ["job.json cannot be read, so its settings are not known"]
    gaps += [] if started else ["its journal lost its beginning, so what was left out is not known"]
    gaps += [] if ran_on else ["what it was trained on (torch, processor) was not recorded"]
    here = environment()
    began = record.get("began")
    workers = started[-1].get("workers") if started else None
    seed = record.get("seed")
    sources = record.get("sources")
    return StageOrigin(
        name=folder.name,
        stage=_text(record.get("stage")) or folder.name.rpartition("-")[0],
        parent=_text(record.get("parent")) or None,
        identity=_text(record.get("identity")),
        trained=tuple(map(str, found)) if isinstance(found := record.get("trained"), list) else (),
        seed=seed if isinstance(seed, int) else None,
        steps=len(steps),
        samples=sum(s.get("samples", 0) for s in steps),
        loss=steps[-1].get("loss") if steps else None,
        seconds=totals.seconds(events),
        workers=workers if isinstance(workers, int) else 1,
        gpus_per_worker=_number(cluster.get("gpus_per_worker")) or 0.0,
        gpu_price=_number(cluster.get("gpu_price")),
        began=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)) if isinstance(began, float) else "",
        environments=tuple(ran_on),
        otherwise=tuple(dict.fromkeys(what for each in ran_on for what in differences(each, here))),
        settings=settings,
        energy=totals.energy(events),
        read=tuple(totals.left_out(events)),
        digests=_digests(record),
        sources=sources if isinstance(sources, dict) else {},
    ), gaps


def _digests(record: Mapping[str, object]) -> dict[str, str]:
    data = record.get("data")
    listed = [d for d in data if isinstance(d, dict)] if isinstance(data, list) else []
    return {str(d["dataset"]): str(d["digest"]) for d in listed if d.keys() >= {"dataset", "digest"}}


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
