"""Stand-ins for datasets that are not downloaded, with the catalog's counts, for plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from remora import catalog
from remora.data.held_out import held_out, trained_on
from remora.data.index import Dataset
from remora.data.mixture import Readable, open_entry
from remora.errors import DataError
from remora.spec import MixtureEntry, Stage


@dataclass(frozen=True)
class Outline:
    """A catalog dataset that is not downloaded: only its name and number of records are known."""

    name: str
    records: int
    exact: bool
    """Whether the published count is exact."""
    folder: Path
    """Where it will be."""

    @property
    def digest(self) -> str:
        return f"not here: {self.name}"

    def __len__(self) -> int:
        return self.records


def is_here(entry: MixtureEntry, data: Path) -> bool:
    """Whether a mixture entry's file exists, or must exist because it is not a catalog dataset."""
    return entry.dataset is None or (data / catalog.dataset(entry.dataset).path).exists()


def read_or_outline(mixture: Sequence[MixtureEntry], data: Path) -> list[Readable]:
    """Every dataset of a mixture: its index, or its outline if it is not downloaded.

    Raises:
        DataError: one is broken, or is not downloaded and the catalog does not have its number of records.
    """
    return [
        open_entry(entry, data) if is_here(entry, data) else _outline(str(entry.dataset), data) for entry in mixture
    ]


def trained_or_outlined(stage: Stage, datasets: Sequence[Readable], others: Sequence[Readable]) -> list[Readable]:
    """What a stage trains on of the datasets of its mixture; `others` are those that it is validated by, if it is.

    Raises:
        SpecError: it would have nothing to train on, or to be validated by.
    """
    said = stage.validation
    here, there = ([d for d in some if isinstance(d, Dataset)] for some in (datasets, others))
    if said and (len(here), len(there)) == (len(datasets), len(others)):
        held_out(stage, here, there)
    if said is None or said.share is None:
        return list(datasets)
    found: list[Readable] = []
    for entry, dataset in zip(stage.mixture, datasets, strict=True):
        if isinstance(dataset, Dataset):
            found += trained_on(stage.model_copy(update={"mixture": (entry,)}), [dataset])
        elif isinstance(dataset, Outline):
            left = round(dataset.records * (1 - said.share))
            found.append(replace(dataset, records=left, exact=False))
    return found


def _outline(name: str, data: Path) -> Outline:
    entry = catalog.dataset(name)
    records = entry.records or entry.about
    if records is None:
        raise DataError(
            f"dataset {name!r} is not at {data / entry.path}, and the catalog does not say how many records it has; "
            f"next: {entry.next_step(name, data)}"
        )
    return Outline(name, records, entry.records is not None, (data / entry.path).parent)
