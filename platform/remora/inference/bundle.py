"""A bundle: one folder from which a trained variant answers, wherever it is copied to.

bundle.json            the variant's name, each part's catalog name and folder, template, seed
connector/, llm/, …    the parts that training changed; a frozen part is a reference to the catalog
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from remora import catalog
from remora.errors import DataError
from remora.files import publishing, verify
from remora.model.hub import cached
from remora.model.refs import PartRef

FILE = "bundle.json"


@dataclass(frozen=True)
class Bundle:
    """What a bundle folder says, with its parts' folders resolved."""

    name: str
    parts: dict[str, PartRef]
    template: str
    """The prompt template that questions are asked in, the last stage's."""
    aspect: Literal["square", "pad"]
    seed: int


def write_bundle(folder: Path, bundle: Bundle, about: Mapping[str, Any]) -> None:
    """Publish a bundle. Parts with a folder below a stage run are copied, pretrained ones stay references.

    `about` is kept as it is, for people: the resolved spec and the stage runs it came from.
    """
    with publishing(folder) as tmp:
        said: dict[str, Any] = {}
        for part, ref in bundle.parts.items():
            trained = ref.folder is not None and not (part == "llm" and _is_cached(ref))
            adapters = [f"{part}-adapter-{i}" for i in range(len(ref.adapters))]
            said[part] = {"name": ref.name, "folder": part if trained else None, "adapters": adapters}
            if trained:
                assert ref.folder is not None
                shutil.copytree(ref.folder, tmp / part)
            for adapter, name_of in zip(ref.adapters, adapters, strict=True):
                shutil.copytree(adapter, tmp / name_of)
        (tmp / FILE).write_text(
            json.dumps(
                {
                    "name": bundle.name,
                    "parts": said,
                    "template": bundle.template,
                    "aspect": bundle.aspect,
                    "seed": bundle.seed,
                    "about": dict(about),
                },
                indent=1,
            )
        )


def _is_cached(ref: PartRef) -> bool:
    """Whether a language model's folder is the catalog's conversion and not the work of a stage run."""
    assert ref.folder is not None
    entry = catalog.llm(ref.name)
    if entry.loader == "transformers":
        assert entry.hub  # the catalog entry holds this
        return ref.folder == cached(entry.hub, entry.revision)
    return entry.loader != "scratch" and ref.folder.name.startswith(f"{ref.name}-")


def bundle_name(folder: Path) -> str:
    """The variant that a bundle is of.

    Raises:
        DataError: no bundle there.
    """
    return str(_said(folder)["name"])


def _said(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / FILE).read_text())
    except OSError:
        raise DataError(
            f"{folder}: no {FILE} there; give the folder of a trained variant (remora train makes one)"
        ) from None


def read_bundle(folder: Path, cache: Path) -> Bundle:
    """Read and verify a bundle; `cache` holds pretrained language models that it refers to.

    Raises:
        DataError: no bundle there.
        TornArtifact: its files are not what was published.
    """
    said = _said(folder)
    verify(folder)
    parts = {}
    for part, ref in said["parts"].items():
        where = folder / ref["folder"] if ref["folder"] else None
        if where is None and part == "llm":
            from remora.model.llm import pretrained_folder

            where = pretrained_folder(ref["name"], catalog.llm(ref["name"]), cache / "llm")
        parts[part] = PartRef(ref["name"], where, tuple(folder / a for a in ref["adapters"]))
    return Bundle(said["name"], parts, said["template"], said["aspect"], said["seed"])
