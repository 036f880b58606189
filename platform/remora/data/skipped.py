"""Count the records that a stage skips, and stop it when they exceed the mixture entry's `max_skipped`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

from remora.data.index import Dataset
from remora.data.locations import absolute
from remora.data.sources import check_command, picture_folder
from remora.errors import DataError
from remora.spec import MixtureEntry


class EntryCounts(TypedDict):
    """What the index of a mixture's entry skips."""

    dataset: str
    records: int
    skipped: dict[str, int]
    """Kind of problem -> records."""


class Skipped:
    """The skipped records of a mixture: those that the indexes skip, and those found broken during training.

    A picture that was intact when it was indexed may be damaged or missing when it is read.
    """

    def __init__(self, mixture: Sequence[MixtureEntry], datasets: Sequence[Dataset]) -> None:
        self._mixture, self._datasets = mixture, datasets
        self._since: list[dict[str, str]] = [{} for _ in mixture]  # sample id -> kind

    def name(self, entry: int) -> str:
        """The entry's label: MLflow's names must not have empty parts."""
        return self._mixture[entry].label

    def add(self, entry: int, sample: str, kind: str) -> None:
        """Count a broken sample of an entry, once however often it is read.

        Raises:
            DataError: more samples are skipped than the entry's `max_skipped` allows.
        """
        self._since[entry][sample] = kind
        allowed, dataset = self._mixture[entry].max_skipped, self._datasets[entry]
        if dataset.skipped + len(self._since[entry]) > allowed * dataset.records:
            counts = ", ".join(f"{n:,} {kind}" for kind, n in Counter(self._since[entry].values()).items())
            raise DataError(
                f"{self.name(entry)}: {counts} found while training and {dataset.skipped:,} records skipped before, of "
                f"{dataset.records:,}, are more than max_skipped {allowed:g} allows; the last is sample {sample!r}; "
                f"fix the dataset ({self._check(entry)}) or raise it"
            )

    def lines(self) -> list[str]:
        """One line per dataset with skipped records, for the end of a stage."""
        found = []
        for i, dataset in enumerate(self._datasets):
            kinds: Counter[str] = Counter()
            kinds.update({k: n for k, n in dataset.counts.items() if k in self._mixture[i].skip})
            kinds.update(self._since[i].values())
            if kinds:
                said = ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common())
                left_out = dataset.skipped + len(self._since[i])
                found.append(f"{self.name(i)}: {left_out:,} of {dataset.records:,} records left out ({said})")
        return found

    def _check(self, entry: int) -> str:
        one = self._mixture[entry]
        if one.path is None:
            return check_command(str(one.dataset))
        location = absolute(one.path)
        return check_command(location, absolute(one.images) if one.images else picture_folder(location))

    def as_json(self) -> list[EntryCounts]:
        """What the indexes skip: each entry's dataset, number of records, and number of records of each skipped
        kind."""
        return [
            {
                "dataset": self.name(i),
                "records": dataset.records,
                "skipped": {kind: n for kind, n in dataset.counts.items() if kind in entry.skip},
            }
            for i, (entry, dataset) in enumerate(zip(self._mixture, self._datasets, strict=True))
        ]
