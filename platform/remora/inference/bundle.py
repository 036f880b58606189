"""A bundle: one self-contained folder of a trained variant, ready to load; it can be copied anywhere.

bundle.json            the variant's name, each part's catalog name and folder, template, seed
connector/, llm/, …    the parts that training changed; a frozen part is a reference to the catalog
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, get_args

from remora import catalog
from remora.errors import DataError, UnknownName
from remora.files import copy, digest, exclusive, is_published, manifest, publishing, verify
from remora.model.hub import cached
from remora.model.refs import PartRecord, PartRef, source_digest
from remora.spec import PARTS

FILE = "bundle.json"
PAPERS = ("README.md", "bom.cdx.json")
"""What an exported bundle has besides: they decide no answer."""
Weights = Literal["float32", "int8"]
"""Of the language model's linear layers when it answers; int8.py says how they are made from float32."""
AGAIN = "copy it again whole, or make it again with the command that made it (remora train, import or average)"


@dataclass(frozen=True)
class Bundle:
    """A bundle folder's contents, with its parts' folders resolved."""

    name: str
    parts: dict[str, PartRef]
    template: str
    """The prompt template for questions, from the last stage."""
    aspect: Literal["square", "pad"]
    seed: int
    weights: Weights = "float32"


class BundleFile(TypedDict):
    """The content of bundle.json. Folders are names of folders beside it."""

    name: str
    parts: dict[str, PartRecord]
    template: str
    aspect: Literal["square", "pad"]
    seed: int
    about: dict[str, object]
    weights: NotRequired[Weights]
    """Only if not float32."""


def write_bundle(
    folder: Path, bundle: Bundle, about: Mapping[str, object], papers: Mapping[str, str] | None = None
) -> None:
    """Publish a bundle. Parts with a folder below a stage run are copied, pretrained ones stay references.

    `about` is stored unchanged, as information: the resolved spec and the stage runs it came from. `papers` are texts
    by their files' names, of PAPERS.
    """
    with publishing(folder) as tmp:
        said: dict[str, PartRecord] = {}
        for part, ref in bundle.parts.items():
            trained = ref.folder is not None and not (part == "llm" and _is_cached(ref))
            adapters = [f"{part}-adapter-{i}" for i in range(len(ref.adapters))]
            said[part] = {"name": ref.name, "folder": part if trained else None, "adapters": adapters}
            if trained:
                assert ref.folder is not None
                copy(ref.folder, tmp / part)
            for adapter, name_of in zip(ref.adapters, adapters, strict=True):
                copy(adapter, tmp / name_of)
        for name, text in (papers or {}).items():
            (tmp / name).write_text(text)
        (tmp / FILE).write_text(
            json.dumps(
                {
                    "name": bundle.name,
                    "parts": said,
                    "template": bundle.template,
                    "aspect": bundle.aspect,
                    "seed": bundle.seed,
                    "about": dict(about),
                    **({} if bundle.weights == "float32" else {"weights": bundle.weights}),
                },
                indent=1,
            )
        )


def _is_cached(ref: PartRef) -> bool:
    """Whether a language model's folder is a conversion of the catalog's, not a stage run's result."""
    assert ref.folder is not None
    entry = catalog.llm(ref.name)
    if entry.loader == "transformers":
        assert entry.hub  # the catalog entry holds this
        return ref.folder == cached(entry.hub, entry.revision)
    return entry.loader != "scratch" and ref.folder.name.startswith(f"{ref.name}-")


def bundle_name(folder: Path) -> str:
    """The name of a bundle's variant.

    Raises:
        DataError: not a bundle, or its bundle.json was edited.
    """
    return str(read_bundle_file(folder)["name"])


def check_bundle(folder: Path) -> None:
    """Check a bundle's files against its manifest.

    Raises:
        TornArtifact: they are not what was published.
    """
    verify(folder, AGAIN)


def weights_digest(folder: Path) -> str:
    """Digest of everything that decides a bundle's answers: its parts' files, the parts it refers to, its template.

    Its name and `about` are not part of it: the same weights under another name or spec are the same model.

    Raises:
        DataError: no bundle there.
        TornArtifact: no manifest there.
    """
    said = read_bundle_file(folder)
    files = {name: sha for name, sha in manifest(folder, AGAIN).items() if name not in (FILE, *PAPERS)}
    parts = {}
    for part, ref in said["parts"].items():
        parts[part] = [ref["name"], ref["adapters"], None if ref["folder"] else source_digest(part, ref["name"])]
    # An untrained connector is made from the seed.
    fresh = "connector" in parts and said["parts"]["connector"]["folder"] is None
    template = catalog.template(said["template"]).model_dump(mode="json", exclude={"source"})
    found = [files, parts, template, said["aspect"], said["seed"] if fresh else None]
    return digest([*found, said["weights"]] if "weights" in said else found)


def with_weights(folder: Path, weights: str, cache: Path) -> Path:
    """A bundle's folder, or that of one with the same parts whose language model answers with other weights: a model
    of its own, with its own name, digest and scores. It is made once, below `cache`, of links where those can be.

    Raises:
        DataError: no bundle there, or no such weights.
        TornArtifact: its files are not what was published.
    """
    said = read_bundle_file(folder)
    kind: Weights | None = next((one for one in get_args(Weights) if one == weights), None)
    if kind is None:
        raise DataError(f"weights are {' or '.join(get_args(Weights))}; found {weights!r}")
    if kind in ("float32", said.get("weights", "float32")):
        return folder
    made = cache / "weights" / f"{said['name']}-{kind}-{weights_digest(folder)[:12]}"
    with exclusive(made.with_name(f".{made.name}.lock")):  # replicas start together
        if is_published(made):
            return made
        bundle = read_bundle(folder, cache)
        write_bundle(made, replace(bundle, name=f"{bundle.name}-{kind}", weights=kind), said["about"])
    return made


def serving_lock(folder: Path) -> Path:
    """The lock that all replicas of endpoints have which serve a bundle's folder; it is beside the folder."""
    return folder.with_name(f".{folder.name}.serving.lock")


def read_bundle_file(folder: Path) -> BundleFile:
    """The validated contents of bundle.json, which people edit. Reads no weights.

    Raises:
        DataError: not a bundle, or its bundle.json was edited.
    """
    try:
        said = json.loads((folder / FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{folder}: no {FILE} there; give the folder of a trained variant (remora train makes one)"
        ) from None
    except OSError as e:
        raise DataError(f"{folder / FILE}: cannot read: {e.strerror}") from None
    except (ValueError, RecursionError) as e:
        raise DataError(f"{folder / FILE}: not JSON: {e}; put the published file back") from None
    if problem := _problem(said):
        raise DataError(f"{folder / FILE}: {problem}; put the published file back")
    return said


def _problem(said: object) -> str | None:
    """Why a bundle.json is invalid, or None."""
    shapes = {"name": str, "parts": dict, "template": str, "aspect": str, "seed": int, "about": dict}
    if not isinstance(said, dict):
        return f"holds {type(said).__name__}, not an object of {', '.join(shapes)}"
    for key, shape in shapes.items():
        if not isinstance(said.get(key), shape):
            return f"{key!r} is missing" if key not in said else f"{key!r} is {said[key]!r}, not {shape.__name__}"
    if said["aspect"] not in ("square", "pad"):
        return f"'aspect' is {said['aspect']!r}, neither square nor pad"
    if (weights := said.get("weights", "float32")) not in get_args(Weights):
        return f"'weights' is {weights!r}, none of {', '.join(get_args(Weights))}"
    for part, ref in said["parts"].items():
        whole = isinstance(ref, dict) and {"name", "folder", "adapters"} <= ref.keys()
        if part not in PARTS or not (whole and isinstance(ref["name"], str) and isinstance(ref["adapters"], list)):
            return f"'parts': {part!r} is no part with its name, folder and adapters"
        folders = [*ref["adapters"], *([] if ref["folder"] is None else [ref["folder"]])]
        if not all(isinstance(f, str) and f == Path(f).name for f in folders):
            return f"'parts': {part!r} names a folder outside the bundle"
    return None


def read_bundle(folder: Path, cache: Path) -> Bundle:
    """Read and verify a bundle; `cache` holds pretrained language models that it refers to.

    Raises:
        DataError: no bundle there.
        TornArtifact: its files are not what was published.
    """
    said = read_bundle_file(folder)
    check_bundle(folder)
    parts = {}
    for part, ref in said["parts"].items():
        where = folder / ref["folder"] if ref["folder"] else None
        if where is None and part == "llm":
            from remora.model.llm import pretrained_folder

            try:
                entry = catalog.llm(ref["name"])
            except UnknownName as e:
                raise DataError(f"{folder / FILE}: {e}; an entry of your own is read from REMORA_CATALOG") from None
            where = pretrained_folder(ref["name"], entry, cache / "llm")
        parts[part] = PartRef(ref["name"], where, tuple(folder / a for a in ref["adapters"]))
    weights = said.get("weights", "float32")
    return Bundle(said["name"], parts, said["template"], said["aspect"], said["seed"], weights)
