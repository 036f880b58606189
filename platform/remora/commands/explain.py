"""`remora explain`: where a model comes from, from the endpoint that serves it down to the digests of the pictures.

remora explain http://127.0.0.1:8000        an endpoint: the version that it serves now
remora explain remora@champion              a registered model
remora explain share-Sig-Phi                a variant, a bundle's folder, or an MLflow run's id
remora explain finetune-75427a5cbb8b        a stage run
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import httpx

from remora.commands.options import ExplainOptions
from remora.data.index import Dataset
from remora.data.outputs import writes
from remora.data.picture_list import pictures
from remora.errors import DataError, RemoraError, ServingError
from remora.files import is_published
from remora.inference.bundle import FILE, read_bundle_file, weights_digest
from remora.pipeline.origin.explanation import Explanation, Served, explain
from remora.pipeline.origin.stages import lineage_names, stages_of
from remora.reporting.columns import literal
from remora.reporting.explained import explained_lines, stage_lines, write_page
from remora.reporting.model_card.bom import BOM
from remora.reporting.model_card.card import README
from remora.reporting.model_card.papers import INSTALL, has_bom, papers, write_papers
from remora.serving.client import authorization, refused

TIMEOUT = 10.0
"""Seconds that an endpoint has to say its version."""


def explained(options: ExplainOptions) -> None:
    """Print where the model comes from; as JSON or as a page, if that is asked for."""
    if options.model == Path(options.model).name and is_published(options.runs / "stages" / options.model):
        _stage_run(options)
        return
    found = explanation(options)
    if options.html:
        with writes(options.html, "--html"):
            write_page(found, options.html)
        sys.stdout.write(f"page: {options.html}\n")
    if options.card:
        write_papers(papers(found), options.card)
        sys.stdout.write(f"model card: {options.card / README}\n")
        sys.stdout.write(f"bill of materials: {options.card / BOM if has_bom() else INSTALL}\n")
    if options.pictures:
        with writes(options.pictures, "--pictures"), options.pictures.open("w") as out:
            listed = sum(out.write(line) > 0 for line in _picture_lines(found))
        sys.stdout.write(f"pictures: {listed:,} lines in {options.pictures}\n")
    if options.json:
        sys.stdout.write(json.dumps(asdict(found), indent=1) + "\n")
    elif not (options.html or options.pictures or options.card):
        console = literal(soft_wrap=True)
        for line in explained_lines(found):
            console.print(line, highlight=False)


def explanation(options: ExplainOptions) -> Explanation:
    """What is known of the model.

    Raises:
        DataError: no such model, or none that this run folder has.
        ServingError: the endpoint does not answer.
        TrackingError: name@alias, and the registry cannot be reached or does not have it.
    """
    given = options.model
    if given.startswith(("http://", "https://")):
        served = _served(given)
        folder, served = _bundle_of(served, options)
        found = explain(folder, options.runs, given, served, f"{served.model} version {served.version}")
        return with_canaries(found, options.runs, (served.model, served.version))
    # Loaded here: an endpoint needs no registry.
    from remora.tracking import find_model

    model = find_model(given, options.runs, options.tracking_uri)
    version = f"{model.registered} version {model.version}" if model.version else None
    found = explain(_kept(model.folder, options.runs), options.runs, given, version=version)
    named = (model.registered, model.version) if model.registered and model.version else None
    return with_canaries(found, options.runs, named)


def with_canaries(found: Explanation, runs: Path, version: tuple[str, str] | None = None) -> Explanation:
    """The explanation with what became of the model as a candidate of endpoints.

    Args:
        version: (Registered model, version) that it was asked for by; others are known by its promotions.
    """
    if not any((runs / "serving").glob("*/canary.jsonl")):
        return found
    from remora.serving.canary.past import canaries_of

    versions = {(made.model, made.version) for made in found.promotions} | ({version} if version else set())
    names = {found.origin.name, Path(found.origin.folder).name, found.origin.folder, found.asked}
    return replace(found, canaries=tuple(canaries_of(runs, versions, names)))


def _stage_run(options: ExplainOptions) -> None:
    stages, gaps = stages_of(options.runs, lineage_names(options.runs, options.model))
    if options.json:
        sys.stdout.write(json.dumps([asdict(stage) for stage in stages], indent=1) + "\n")
        return
    console = literal(soft_wrap=True)
    for line in stage_lines(stages, gaps):
        console.print(line, highlight=False)


def _served(url: str) -> Served:
    """What the endpoint says of its first model.

    Raises:
        ServingError: it does not answer, or is no endpoint of ours.
    """
    place = url.rstrip("/").removesuffix("/v1")
    try:
        response = httpx.get(f"{place}/version", headers=authorization(), timeout=TIMEOUT, trust_env=False)
    except httpx.HTTPError as e:
        raise ServingError(f"{url}: no answer ({type(e).__name__}: {e}); next: remora serve") from e
    if not response.is_success:
        raise refused(url, response)
    try:
        said = response.json()
        lineage = said["lineage"]
        return Served(
            place,
            str(said["model"]),
            str(said["version"]),
            str(said["system_fingerprint"]),
            str(lineage["weights"]),
            tuple(map(str, lineage["stages"])),
            {str(k): str(v) for k, v in lineage["data"].items()},
            str(said["remora"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ServingError(f"{url}: its /version is not one of remora serve; is this the right URL?") from None


def _bundle_of(served: Served, options: ExplainOptions) -> tuple[Path, Served]:
    """The bundle that an endpoint serves, found by its digest or its stage runs, else by its version."""
    near = None
    for folder in _bundles(options.runs):
        try:
            stages = read_bundle_file(folder)["about"].get("stages")
            mine = isinstance(stages, list) and tuple(stages) == served.stages
            if (mine or not served.stages) and weights_digest(folder) == served.weights:
                return folder, served
        except RemoraError:
            continue
        near = folder if mine and served.stages else near
    if near:
        what = "the endpoint's weights were made of this bundle's, in 8 bits or by an average"
        return near, Served(**{**vars(served), "note": what})
    from remora.tracking import find_model

    try:
        return find_model(f"{served.model}@{served.version}", options.runs, options.tracking_uri).folder, served
    except RemoraError as e:
        raise DataError(
            f"{served.endpoint} serves {served.model} version {served.version} (weights {served.weights[:12]}, stage "
            f"runs {', '.join(served.stages) or 'none'}), and {options.runs} has no such bundle ({e}); "
            "give the run folder that it was made in: --runs DIR"
        ) from None


def _kept(folder: Path, runs: Path) -> Path:
    """The bundle in the run folder that a registered copy is of: its name says more."""
    if folder.parent == runs / "bundles":
        return folder
    weights = weights_digest(folder)
    stages = read_bundle_file(folder)["about"].get("stages")
    for other in _bundles(runs):
        try:
            same = read_bundle_file(other)["about"].get("stages") == stages
            if same and weights_digest(other) == weights:
                return other
        except RemoraError:
            continue
    return folder


def _bundles(runs: Path) -> list[Path]:
    return [file.parent for file in sorted((runs / "bundles").glob(f"[!.]*/{FILE}"))]


def _picture_lines(found: Explanation) -> Iterator[str]:
    """A JSON line for each picture that a sample shows: dataset, record, place, sha256."""
    for data in found.origin.data:
        if data.index is None:
            continue
        for picture in pictures(Dataset(Path(data.index), data.skip)):
            said = {"dataset": data.dataset, **asdict(picture)}
            yield json.dumps(said, ensure_ascii=False) + "\n"
