"""Whether what a run folder holds is what was published: stage runs, bundles, indexes, checkpoints, versions.

Everything is read whole, unlike by the commands that use it: gigabytes take minutes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from remora.errors import RemoraError, StoreError
from remora.evaluation.sheet import ABOUT, REPORT, SCORE
from remora.files import MANIFEST, UNREAD, is_published, manifest, read_object, verify
from remora.pipeline.search.space_file import SPACE
from remora.pipeline.upkeep.holdings import Holding, torn_apart
from remora.pipeline.upkeep.registered import lineage_of
from remora.sharing import SharedRuns
from remora.sharing.leftovers import SharedListing
from remora.spec import PARTS
from remora.tracking.every_version import Registered
from remora.tracking.record import read_record, record_files
from remora.tracking.registry import content_digest
from remora.training.job import CHECKPOINTS

STAGE_AGAIN = "next: the command that trained it, which sets it aside and trains it again"
BUNDLE_AGAIN = "next: delete it, and give the command that made it again: nothing is trained"
INDEX_AGAIN = "next: delete the folder; the next command that reads the dataset builds it again"
CHECKPOINT_BEFORE = "a resume takes the checkpoint before it"


@dataclass(frozen=True)
class Verified:
    """What a verification found of one thing."""

    what: str
    """`stage run finetune-0f3a…`."""
    path: Path | str
    """Its place, or its URL."""
    problems: tuple[str, ...]
    """Each a line with what to do; empty if it is whole."""


def verified(runs: Path, holdings: Sequence[Holding]) -> Iterator[Verified]:
    """A verdict on each of these, in order."""
    for holding in holdings:
        yield Verified(holding.shown, holding.path, tuple(_problems(runs, holding)))


def verified_torn_apart(runs: Path) -> Iterator[Verified]:
    """What was published and lacks the file by which it is known: no command sees it, and nothing else names it."""
    advice = {"stages": STAGE_AGAIN, "bundles": BUNDLE_AGAIN, "data": INDEX_AGAIN}
    for folder, file in torn_apart(runs):
        place = folder.relative_to(runs)
        yield Verified(place.as_posix(), folder, (f"{folder}: no {file}; {advice[place.parts[0]]}",))


def verified_records(runs: Path) -> Iterator[Verified]:
    """The records of MLflow's runs that cannot be read."""
    for file in record_files(runs):
        try:
            read_record(file)
        except (OSError, ValueError) as e:
            reason = str(e).splitlines()[0]
            yield Verified(f"record {file.name}", file, (f"{file}: {reason}; next: delete it, it is written again",))


def verified_versions(versions: Sequence[Registered]) -> Iterator[Verified]:
    """The files of registered versions that are on this machine, by the digest that each was registered with."""
    for version in versions:
        folder, what = version["folder"], f"{version['name']} version {version['version']}"
        if folder is None:
            continue
        if not folder.is_dir():
            problem = f"{what}: its files are not at {folder}; next: remora register BUNDLE"
        elif version["digest"] and content_digest(folder) != version["digest"]:
            problem = f"{what}: {folder} is not what was registered; next: remora register BUNDLE"
        else:
            problem = ""
        yield Verified(what, folder, (problem,) if problem else ())


def verified_at_url(shared: SharedRuns) -> Iterator[Verified]:
    """Every publication at the URL of a run folder: manifests, and the files that they name by their sizes."""
    for each in SharedListing(shared).verified():
        yield Verified(f"{each.key} at the URL", f"{shared.url}/{each.key}", each.problems)


def _problems(runs: Path, holding: Holding) -> Iterator[str]:
    folder = holding.path
    match holding.kind:
        case "stage run":
            yield from _torn(folder, STAGE_AGAIN)
            yield from _recorded(holding)
        case "unfinished stage run":
            for checkpoint in sorted((folder / CHECKPOINTS).glob("[!.]*")):
                yield from _torn(checkpoint, CHECKPOINT_BEFORE)
        case "bundle" | "weights" | "download":
            yield from _torn(folder, BUNDLE_AGAIN)
            yield from _copied(runs, folder)
        case "index":
            yield from _torn(folder, INDEX_AGAIN)
        case "scores":
            if not (folder / ABOUT).exists():
                yield f"{folder}: no {ABOUT}, which tells of which model it is; next: delete it, and ask again"
            yield from _readable(folder, (ABOUT, REPORT, SCORE))
        case "search":
            yield from _readable(folder, (SPACE,))
        case _:
            return


def _torn(folder: Path, advice: str) -> Iterator[str]:
    try:
        verify(folder, advice)
    except StoreError as e:  # a torn artifact among them
        yield str(e)
    except OSError as e:
        yield f"{e.filename or folder} cannot be read: {e.strerror or e}; {UNREAD}"


def _recorded(holding: Holding) -> Iterator[str]:
    """A stage run's folder is named by the identity in its record."""
    identity = read_object(holding.path / "record.json").get("identity")
    if isinstance(identity, str) and holding.path.name.rpartition("-")[2] != identity[:12]:
        yield f"{holding.path}: its record is of {identity[:12]}; {STAGE_AGAIN}"


def _copied(runs: Path, bundle: Path) -> Iterator[str]:
    """A bundle's weights are those that its stage runs published, as far as these are here."""
    lineage = [runs / "stages" / name for name in lineage_of(bundle)]
    if not lineage or not all(map(is_published, lineage)):
        return
    try:
        published = {sha for stage in lineage for sha in manifest(stage).values()}
        files = manifest(bundle)
    except RemoraError:
        return  # said above, of the one that is torn
    for name, sha in _weights(files).items():
        if sha not in published:
            yield f"{bundle}: {name} is not what its stage runs published; {BUNDLE_AGAIN}"


def _weights(files: Mapping[str, str]) -> dict[str, str]:
    return {name: sha for name, sha in files.items() if "/" in name and name.partition("/")[0] in PARTS}


def _readable(folder: Path, names: Sequence[str]) -> Iterator[str]:
    if (folder / MANIFEST).exists():
        yield from _torn(folder, "next: delete it")
    for name in names:
        try:
            json.loads((folder / name).read_text())
        except FileNotFoundError:
            continue
        except OSError as e:
            yield f"{folder / name} cannot be read: {e.strerror or e}; {UNREAD}"
        except ValueError as e:
            yield f"{folder / name}: {e}; next: delete it, and give the command that wrote it again"
