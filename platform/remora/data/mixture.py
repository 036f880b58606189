"""A stage's mixture: locate and open its datasets, apply what entries skip, and compute the data fingerprint."""

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
    """The entry, which then also skips the problems that the catalog knows of its dataset.

    Raises:
        UnknownName: the dataset is not in the catalog.
    """
    skip = catalog.dataset(entry.dataset).skip if entry.dataset is not None else ()
    more = tuple(kind for kind in skip if kind not in entry.skip)
    return entry.model_copy(update={"skip": entry.skip + more}) if more else entry


class Readable(Protocol):
    """What an identity needs of a dataset: its index, or the catalog's facts if it is not downloaded."""

    @property
    def digest(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    def __len__(self) -> int: ...


def locate(entry: MixtureEntry, data: Path) -> tuple[str, str, str]:
    """(location, image folder, advice if it is missing) of an entry; `data` is the folder of the catalog's datasets."""
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
    """The dataset of a mixture entry with all records, including broken ones. Builds its index if necessary.

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
    """The dataset of a mixture entry without the records that the entry skips; see `open_whole`.

    Raises:
        DataError: it is missing or unreadable; it has problems that the entry does not skip (the message names the
            first record and the counts of each kind); or more records are skipped than the entry allows.
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
            f"fix or remove them ({check}), or let the mixture skip: [{', '.join(bad)}]"
        )
    kept = Dataset(whole.folder, entry.skip) if entry.skip else whole
    if kept.skipped > entry.max_skipped * kept.records:
        raise DataError(
            f"{location}: {kept.skipped:,} of {kept.records:,} records are skipped, more than max_skipped "
            f"{entry.max_skipped:g} allows; fix the dataset ({check}) or raise it"
        )
    return kept


def read_mixture(mixture: Sequence[MixtureEntry], data: Path) -> list[Dataset]:
    """Every dataset of a mixture, in order; see `open_entry`."""
    return [open_entry(entry, data) for entry in mixture]


def fingerprint(mixture: Sequence[MixtureEntry], datasets: Sequence[Readable]) -> str:
    """Digest of everything that a mixture reads: records, pictures' bytes, what is skipped. Locations are not part."""
    return digest([[d.digest, *sorted(entry.skip)] for entry, d in zip(mixture, datasets, strict=True)])
