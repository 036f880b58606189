"""References to a model's three parts. Imports no torch, because planning and waiting need references too.

A part is a catalog name and, once trained, the folder of the stage run that trained it. Frozen parts are never copied:
they stay references.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypedDict

from remora import catalog
from remora.catalog import Vision
from remora.errors import SpecError
from remora.files import digest, sha256_file
from remora.model.hub import resolved_revision

NOT_THE_MODEL = {"stage", "source", "short", "licence", "templates", "gated", "unpublished"}
"""Fields of an entry that do not affect the weights."""


class PartRecord(TypedDict):
    """A `PartRef` as JSON has it."""

    name: str
    folder: str | None
    adapters: list[str]


class SourceRecord(TypedDict):
    """Where an untrained part comes from."""

    hub: str | None
    package: str | None
    revision: str | None
    """Commit of the hub's repository, or a digest of a local folder's files."""
    digest: str
    """See `source_digest`: what an identity has of it."""


@dataclass(frozen=True)
class PartRef:
    """A part: its catalog name, the folder of its weights if they are not the catalog's, and its adapters."""

    name: str
    folder: Path | None = None
    adapters: tuple[Path, ...] = ()
    """LoRA folders, merged into the weights in order."""

    def to_json(self, say: Callable[[Path], str] = str) -> PartRecord:
        """`say` writes a path."""
        return {
            "name": self.name,
            "folder": say(self.folder) if self.folder else None,
            "adapters": [*map(say, self.adapters)],
        }

    @classmethod
    def from_json(cls, said: PartRecord, place: Callable[[str], Path] = Path) -> PartRef:
        """`place` reads what `say` wrote."""
        folder = place(said["folder"]) if said["folder"] else None
        return cls(said["name"], folder, tuple(place(p) for p in said["adapters"]))


def source_digest(part: str, name: str) -> str:
    """Digest of the source of an untrained part: its weight file, or the catalog facts that it is built from."""
    if part == "vision" and catalog.vision(name).package:
        return sha256_file(Path(weights_file(catalog.vision(name))))
    entry = {"vision": catalog.vision, "connector": catalog.connector, "llm": catalog.llm}[part](name)
    facts = entry.model_dump(mode="json", exclude=NOT_THE_MODEL, exclude_none=True)
    if hub := facts.get("hub"):
        facts["revision"] = resolved_revision(hub, facts.get("revision"))
    return digest(facts)


def source_record(part: str, name: str) -> SourceRecord:
    """The source of an untrained part, as it is here and now."""
    entry = {"vision": catalog.vision, "connector": catalog.connector, "llm": catalog.llm}[part](name)
    hub = getattr(entry, "hub", None)
    revision = resolved_revision(hub, getattr(entry, "revision", None)) if hub else None
    package = getattr(entry, "package", None)
    return {"hub": hub, "package": package, "revision": revision, "digest": source_digest(part, name)}


def weights_file(entry: Vision) -> str:
    """Path of the pretrained weights inside the installed package.

    Raises:
        SpecError: the package is not installed, or is of another version.
    """
    assert entry.package and entry.file, "the catalog checks it"
    module, _, path = entry.file.partition("/")
    try:
        file = resources.files(module) / path
    except ModuleNotFoundError:
        raise SpecError(f"package {entry.package} is not installed; next: pip install 'remora[demo]'") from None
    if not file.is_file():
        raise SpecError(f"package {entry.package} has no {entry.file}; next: pip install 'remora[demo]'")
    return str(file)
