"""The catalog: facts about models, datasets and recipes in the YAML files beside this one, a getter for each kind.

Works offline. If REMORA_CATALOG names a folder, its files (vision.yaml, llm.yaml, …, recipes/) are read as well. Their
entries add to the shipped ones and never replace them, so a shipped name means the same everywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from remora.catalog.devices import Device
from remora.catalog.entries import LLM, Connector, DatasetEntry, Folder, OwnBenchmark, Template, Vision
from remora.catalog.licences import Licence, LicenceLine
from remora.catalog.papers import PAPERS
from remora.catalog.published import PublishedModel, Scores
from remora.catalog.resolution import tokens_at
from remora.errors import SpecError, UnknownName, nearest
from remora.spec import Recipe, Spec, load, read_yaml, validate
from remora.spec.messages import found
from remora.spec.paths import YAMLS

HERE = Path(__file__).parent
OWN = "REMORA_CATALOG"
"""The environment variable that names a folder with your own entries."""
E = TypeVar("E", bound=Spec)

KINDS: dict[str, type[Spec]] = {
    "vision": Vision,
    "llm": LLM,
    "connectors": Connector,
    "templates": Template,
    "datasets": DatasetEntry,
    "benchmarks": OwnBenchmark,
    "recipes": Recipe,
    "published": PublishedModel,
    "scores": Scores,
    "licences": Licence,
    "devices": Device,
}


def entries(kind: str) -> dict[str, Spec]:
    """Every entry of a kind, by name: the shipped ones, then those of the REMORA_CATALOG folder.

    Raises:
        UnknownName: no such kind.
        SpecError: an entry is invalid, or one of your own has a shipped name.
    """
    if kind not in KINDS:
        raise UnknownName(f"no catalog kind {kind!r}{nearest(kind, KINDS)}; known: {', '.join(KINDS)}")
    own = os.environ.get(OWN)
    return _entries(kind, Path(own).expanduser().absolute() if own else None)


@cache
def _entries(kind: str, own: Path | None) -> dict[str, Spec]:
    """The entries of a kind, read once per process."""
    ours = shipped(kind)
    if own is None:
        return ours
    _check_folder(own)
    added = _read(kind, own)
    taken = [("name", name) for name in ours.keys() & added]
    taken += [("short name", short) for short in _shorts(ours).keys() & _shorts(added)]
    if taken:
        what, name = min(taken)
        raise SpecError(
            f"{own}: the {kind} {what} {name!r} is taken by the shipped catalog, whose entries are never replaced; "
            f"give yours another; see: remora catalog {kind}"
        )
    return ours | added


@cache
def shipped(kind: str) -> dict[str, Spec]:
    """The entries of a kind that come with Remora."""
    return _read(kind, HERE)


def _read(kind: str, folder: Path) -> dict[str, Spec]:
    """The entries of a kind in a folder; empty if it has no file for them."""
    if kind == "recipes":
        return {p.stem: _recipe_file(p) for p in sorted((folder / "recipes").glob("*.yaml"))}
    path = folder / f"{kind}.yaml"
    if folder != HERE and not path.exists():
        return {}
    raw, lines = read_yaml(path)
    if not isinstance(raw, dict):
        raise SpecError(f"{path}: expected entries by name, found {raw!r}; see docs/catalog.md")
    shown = path.name if folder == HERE else path
    return {
        name: validate(KINDS[kind], entry, f"{shown}: {name}", {k[1:]: n for k, n in lines.items() if k[0] == name})
        for name, entry in raw.items()
    }


def _recipe_file(path: Path) -> Recipe:
    """A catalog recipe; its name must be that of its file."""
    found = load(Recipe, path)
    if found.name != path.stem:
        raise SpecError(
            f"{path}: the recipe is named {found.name!r}; a catalog recipe is named as its file: {path.stem}"
        )
    return found


def _check_folder(own: Path) -> None:
    """Refuse unknown files: a misspelt one would be ignored silently."""
    if not own.is_dir():
        raise SpecError(f"{OWN}={own}: no such folder; make it or unset {OWN}")
    files = [f"{kind}.yaml" for kind in KINDS if kind != "recipes"]
    for path in sorted(own.glob("*.y*ml")):
        if path.name not in files:
            raise SpecError(
                f"{path}: no catalog file of that name{nearest(path.name, files)}; "
                f"a catalog folder holds {', '.join(files)} and recipes/"
            )


def _shorts(found: dict[str, Spec]) -> dict[str, str]:
    """Short name (used in variant names) to entry name; it must be unique."""
    return {short: name for name, entry in found.items() if (short := getattr(entry, "short", None))}


def listed(model: type[E]) -> dict[str, E]:
    """All entries of the kind whose class is `model`, by name."""
    kind = next(kind for kind, of in KINDS.items() if of is model)
    return {name: entry for name, entry in entries(kind).items() if isinstance(entry, model)}


def _getter(kind: str, label: str, model: type[E]) -> Callable[[str], E]:
    def get(name: str) -> E:
        known = listed(model)
        if name not in known:
            raise UnknownName(
                f"unknown {label} {found(name)}{nearest(name, known)}; known: {', '.join(known)}; "
                f"see: remora catalog {kind}"
            )
        return known[name]

    get.__doc__ = f"The {label} of that name. Raises UnknownName, which lists the known ones."
    return get


llm = _getter("llm", "llm", LLM)
template = _getter("templates", "template", Template)
dataset = _getter("datasets", "dataset", DatasetEntry)
benchmark = _getter("benchmarks", "benchmark", OwnBenchmark)
published = _getter("published", "published model", PublishedModel)
licence = _getter("licences", "licence", Licence)
device = _getter("devices", "device", Device)
_listed_scores = _getter("scores", "model with scores", Scores)
_listed_vision = _getter("vision", "vision encoder", Vision)
_listed_connector = _getter("connectors", "connector", Connector)
_listed_recipe = _getter("recipes", "recipe", Recipe)


def check_benchmark(name: str) -> None:
    """Check that a benchmark exists: a published one, one of the catalog, or a YAML file whose path is `name`.

    Raises:
        UnknownName: it does not; the message lists the known ones.
    """
    known = [*PAPERS, *entries("benchmarks")]
    a_path = name.endswith(YAMLS)
    if name not in known and a_path and not Path(name).exists():
        raise UnknownName(f"benchmark {name}: there is no such file; benchmarks with a name: remora catalog benchmarks")
    if name not in known and not a_path:
        raise UnknownName(
            f"unknown benchmark {name!r}{nearest(name, known)}; known: {', '.join(known)}, or the path of a YAML; "
            "see: remora catalog benchmarks"
        )


def vision(name: str) -> Vision:
    """The vision encoder of that name. `clip-l-336@448` is clip-l-336 at 448 px, with interpolated positions;
    `clip-l-336@-1` (and `clip-l-336@448@-1`) is read after its last block.

    Raises:
        UnknownName: there is no such encoder.
        SpecError: it does not support that size or layer.
    """
    base, at, size = name.rpartition("@")
    if not at or name in entries("vision"):
        return _listed_vision(name)
    if re.fullmatch(r"-[1-9]\d{0,2}", size):
        return _at_layer(name, base, int(size))
    entry = _listed_vision(base)
    if not re.fullmatch(r"[1-9]\d{0,4}", size):
        raise UnknownName(f"unknown vision encoder {name!r}: {size!r} is not a size; write {base}@PIXELS")
    if entry.scales:
        raise SpecError(f"vision encoder {name!r}: {base} has scales of its own; make an entry with others")
    side = int(size)
    facts = entry.model_dump() | {"short": f"{entry.short}.{side}", "image_size": side}
    if entry.resize:
        facts["resize"] = entry.resize * side // entry.image_size
    facts["tokens"] = tokens_at(entry.loader, entry.config, side, entry.prefix) or entry.tokens
    facts["source"] = f"{base} at {side} px, its positions interpolated by transformers. {entry.source}"
    return validate(Vision, facts, f"vision encoder {name!r}")


def _at_layer(name: str, base: str, layer: int) -> Vision:
    """The encoder `base`, read after another of its blocks, counted from the end."""
    entry = vision(base)
    if entry.loader == "efficientnet-lite":
        raise SpecError(f"vision encoder {name!r}: {base} is read after its last block, and has no other layer to read")
    facts = entry.model_dump() | {"short": f"{entry.short}.L{-layer}", "layer": layer}
    facts["source"] = f"{base} read at layer {layer}. {entry.source}"
    return validate(Vision, facts, f"vision encoder {name!r}")


def connector(name: str) -> Connector:
    """The connector of that name. `mlp<N>x_gelu` works for any N: N linear layers with a GELU between them."""
    depth = re.fullmatch(r"mlp([1-9]\d*)x_gelu", name)
    if depth and name not in entries("connectors"):
        n = depth[1]
        return Connector(short=f"mlp{n}", kind="mlp", depth=int(n), source=f"mlp2x_gelu (LLaVA-1.5) with {n} layers.")
    return _listed_connector(name)


def scores(name: str) -> Scores:
    """The reported scores of a model, by any of its names."""
    return _listed_scores(next((n for n, e in listed(Scores).items() if name in e.also), name))


def recipe(name: str) -> Recipe:
    """The recipe of that name, or of the YAML file whose path is `name`."""
    return load(Recipe, name) if name.endswith(YAMLS) else _listed_recipe(name)


GETTERS: dict[str, Callable[[str], Spec]] = {
    "vision": vision,
    "llm": llm,
    "connectors": connector,
    "templates": template,
    "datasets": dataset,
    "benchmarks": benchmark,
    "recipes": recipe,
    "published": published,
    "scores": scores,
    "licences": licence,
    "devices": device,
}
"""For every kind, the function that finds an entry by a name as written in a spec."""


__all__ = [
    "GETTERS",
    "KINDS",
    "LLM",
    "PAPERS",
    "Connector",
    "DatasetEntry",
    "Device",
    "Folder",
    "Licence",
    "LicenceLine",
    "OwnBenchmark",
    "PublishedModel",
    "Scores",
    "Template",
    "Vision",
    "benchmark",
    "connector",
    "dataset",
    "device",
    "entries",
    "licence",
    "listed",
    "llm",
    "published",
    "recipe",
    "scores",
    "shipped",
    "template",
    "vision",
]
