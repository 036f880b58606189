"""The registry's versions, as far as a run folder is concerned: which of its things each needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from remora.errors import RemoraError
from remora.files import MANIFEST, is_published, read_object, sha256_file
from remora.inference.bundle import FILE, read_bundle_file, weights_digest
from remora.pipeline.upkeep.holdings import Holding
from remora.tracking.every_version import Registered


def names_bundle(version: Registered, bundle: Path, claimed: Iterable[str]) -> bool:
    """Whether a version was made of a bundle: its files are the same, or a record of the run folder says so.

    Where neither can be known, because the files are on another machine, a bundle of the variant's name counts: rather
    one too many is kept than one too few.

    Args:
        claimed: The places of the bundles that the run folder's records name for the version.
    """
    if version["folder"] is not None and is_published(version["folder"]):  # else the bundle may be the only whole one
        return _same(version["folder"] / MANIFEST, bundle / MANIFEST)
    if bundle.name in claimed:
        return True
    return not list(claimed) and version["tags"].get("variant") == _name(bundle)


def stages_of(version: Registered, bundles: Iterable[Holding]) -> Iterator[str]:
    """Names of the stage runs that a version comes from, or the starts of their identities."""
    for folder in (*([version["folder"]] if version["folder"] else []), *(b.path for b in bundles)):
        yield from lineage_of(folder)
    kind, _, rest = version["key"].partition("/")
    if kind == "variant":
        yield rest.partition("/")[0][:12]


def weights_of(folder: Path) -> str:
    """The digest of a bundle's weights; empty if it cannot be told."""
    try:
        return weights_digest(folder)
    except (RemoraError, OSError):
        return ""


def lineage_of(bundle: Path) -> list[str]:
    """The stage runs that a bundle says it comes from."""
    try:
        about = read_bundle_file(bundle)["about"]
    except RemoraError:
        return []
    names = about.get("stages")
    return [str(name) for name in names] if isinstance(names, list) else []


def _name(bundle: Path) -> object:
    return read_object(bundle / FILE).get("name")


def _same(one: Path, other: Path) -> bool:
    try:
        return sha256_file(one) == sha256_file(other)
    except OSError:
        return False
