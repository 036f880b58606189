"""A stage's mixture: where its datasets lie, what of them is read, and the digest of all that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from remora import catalog
from remora.data.index import Dataset
from remora.data.index_builder import OnProgress, Spread, open_dataset
from remora.data.locations import absolute
from remora.data.pixels import NOTED
from remora.data.sources import check_command, find_source, picture_folder
from remora.errors import DataError, MissingDataset
from remora.files import digest
from remora.spec import MixtureEntry


def with_known(entry: MixtureEntry) -> MixtureEntry:
    """The entry, skipping also what the catalog says of its dataset's published file.

    Raises:
        UnknownName: the catalog does not hold its dataset.
    """
    skip = catalog.dataset(entry.dataset).skip if entry.dataset is not None else ()
    more = tuple(kind for kind in skip if kind not in entry.skip)
    return entry.model_copy(update={"skip": entry.skip + more}) if more else entry


class Readable(Protocol):
    """What an identity follows from of a dataset: its index, or what the catalog says while it is not here."""

    @property
    def digest(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    def __len__(self) -> int: ...


def locate(entry: MixtureEntry, data: Path) -> tuple[str, str, str]:
    """(location, image folder, what to do if it is missing) of a mixture entry; `data` holds the catalog's sets."""
    if entry.dataset is not None:
        known = catalog.dataset(entry.dataset)
        hint = f" (dataset {entry.dataset!r}); next: {known.next_step(entry.dataset, data)}"
        return str(data / known.path), str(data / known.images), hint
    assert entry.path is not None
    location = absolute(entry.path)
    images = absolute(entry.images) if entry.images else picture_folder(location)
    return location, images, "; give the path of a dataset"


def open_whole(
    entry: MixtureEntry, data: Path, spread: Spread | None = None, progress: OnProgress | None = None
) -> Dataset:
    """The dataset of a mixture entry with all of its records, broken ones too. Its index is built first if need be.

    Raises:
        DataError: it is missing or unreadable.
    """
    location, images, hint = locate(entry, data)
    try:
        return open_dataset(find_source(location), location, images, data / "index", spread, progress)
    except MissingDataset as e:
        raise MissingDataset(f"{e}{hint}") from None


def open_entry(
    entry: MixtureEntry, data: Path, spread: Spread | None = None, progress: OnProgress | None = None
) -> Dataset:
    """The dataset of a mixture entry, without what the entry skips; see `open_whole`.

    Raises:
        DataError: it is missing or unreadable; it has problems that the entry does not skip; or it skips more than
            the entry allows. The first such record is named, and how many there are of each kind.
    """
    entry = with_known(entry)
    location, images, _ = locate(entry, data)
    check = check_command(entry.dataset) if entry.dataset else check_command(location, images)
    whole = open_whole(entry, data, spread, progress)
    bad = {kind: n for kind, n in whole.counts.items() if kind not in NOTED and kind not in entry.skip}
    if bad:
        first = next(flaw for flaw in whole.flaws() if flaw.kind in bad)
        counts = ", ".join(f"{n:,} {kind}" for kind, n in bad.items())
        raise DataError(
            f"{whole.where(first.record)}: {first.problem} ({counts} of {whole.records:,} records); "
            f"mend or remove them ({check}), or let the mixture skip: [{', '.join(bad)}]"
        )
    kept = Dataset(whole.folder, entry.skip) if entry.skip else whole
    if kept.skipped > entry.max_skipped * kept.records:
        raise DataError(
            f"{location}: {kept.skipped:,} of {kept.records:,} records are skipped, more than max_skipped "
            f"{entry.max_skipped:g} allows; mend the dataset ({check}) or raise it"
        )
    return kept


def read_mixture(mixture: Sequence[MixtureEntry], data: Path) -> list[Dataset]:
    """Every dataset of a mixture, in order; see `open_entry`."""
    return [open_entry(entry, data) for entry in mixture]


def fingerprint(mixture: Sequence[MixtureEntry], datasets: Sequence[Readable]) -> str:
    """Digest of all that a mixture reads: records, the bytes of pictures, what is skipped. Not of where they lie."""
    return digest([[d.digest, *sorted(entry.skip)] for entry, d in zip(mixture, datasets, strict=True)])
