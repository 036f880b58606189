"""What a stage holds out of its training to be validated by, and what it trains on instead.

Which records a share holds out follows from what each of them says and shows: a keyed digest of its turns and of the
bytes of its pictures, as a number in [0, 1), is below the share. Its id, its place and its dataset do not matter, so a
record and its copies are on one side in every stage and mixture, and a share holds out all that a smaller one does.

Digests take 18 s for a million records of 1.3 kB, so they are kept beside an index: `<name>-<place>/contents/<index>/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from remora.data.index import Dataset
from remora.data.index_builder import over_processes
from remora.errors import SpecError, StoreError, TornArtifact
from remora.files import digest, exclusive, publishing, verify
from remora.spec import MixtureEntry, Stage

KEY = b"held out, 1"
"""Of the digest. Another one holds out other records, so it never changes."""
FILE = "contents.bin"
AT_ONCE = 1 << 16
"""Records that a process digests at a time."""
NOTHING = (1 << 64) - 1
"""Stands for a record of which nothing can be read: no share holds it out."""


@dataclass(frozen=True)
class HeldOut:
    """The samples that a stage is validated by."""

    mixture: tuple[MixtureEntry, ...]
    """The entries that have any of them, to be read once."""
    datasets: Sequence[Dataset]
    """Of each entry, the samples that are held out."""
    digest: str
    """Of what is measured: what the samples say and show, whatever datasets they are from, and the benchmark that is
    asked besides. The template and all else that acts is the stage's."""
    seen: int
    """Samples that are not among them, because the stage trains on them as well."""

    @property
    def samples(self) -> int:
        return sum(map(len, self.datasets))


def contents(dataset: Dataset) -> np.ndarray:
    """uint64 [records], a digest of what each record of the source says and shows."""
    folder = dataset.folder.parent / "contents" / dataset.folder.name
    with suppress(OSError, TornArtifact):
        return _read(folder, dataset.records)
    try:
        with exclusive(folder.with_name(f"{folder.name}.lock")):
            with suppress(OSError, TornArtifact):
                return _read(folder, dataset.records)
            found = _digests(Dataset(dataset.folder))
            with publishing(folder) as tmp:
                found.tofile(tmp / FILE)
    except StoreError:  # a disk that takes no table: the next command digests anew
        return _digests(Dataset(dataset.folder))
    return found


@lru_cache(maxsize=64)
def _read(folder: Path, records: int) -> np.ndarray:
    verify(folder)
    found = np.fromfile(folder / FILE, np.uint64)
    if len(found) != records:
        raise TornArtifact(f"{folder}: {FILE} is of another index")
    return found


def _digests(dataset: Dataset) -> np.ndarray:
    parts = (range(at, min(at + AT_ONCE, dataset.records)) for at in range(0, dataset.records, AT_ONCE))
    return np.concatenate(list(over_processes(partial(_digested, dataset), parts)))


def _digested(dataset: Dataset, numbers: range) -> np.ndarray:
    return np.fromiter((content(dataset.record(number)) for number in numbers), np.uint64, len(numbers))


def content(record: bytes) -> int:
    """A digest of what a record, as an index keeps it, says and shows, below 2 ** 64; not of its id, nor of where its
    pictures lie."""
    if not record:
        return NOTHING
    _, said, shown, *system = json.loads(record)
    what = json.dumps([said, [sha256 for _, _, _, sha256, _ in shown], system], separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(what.encode(), digest_size=8, key=KEY).digest())


def _of(dataset: Dataset) -> np.ndarray:
    return contents(dataset)[dataset.numbers]


def _below(share: float) -> np.uint64:
    return np.uint64(int(share * (1 << 64)))


def trained_on(stage: Stage, datasets: Sequence[Dataset]) -> list[Dataset]:
    """The datasets of a stage's mixture without what it holds out of them.

    Raises:
        SpecError: nothing is left of one.
    """
    share = stage.validation.share if stage.validation else None
    if share is None:
        return list(datasets)
    kept = [d.only(d.numbers[_of(d) >= _below(share)]) for d in datasets]
    for entry, dataset, whole in zip(stage.mixture, kept, datasets, strict=True):
        if len(whole) and not len(dataset):
            raise SpecError(
                f"stage {stage.name!r}: validate.share {share:g} holds out all {len(whole):,} samples of "
                f"{entry.dataset or entry.path}, so none is left to train on; lower it, or validate by a mixture"
            )
    return kept


def held_out(stage: Stage, datasets: Sequence[Dataset], others: Sequence[Dataset] = ()) -> HeldOut:
    """What a stage is validated by: at most `limit` samples, those of the smallest digests, one of equal ones.

    Args:
        datasets: of the stage's own mixture, whole.
        others: of its validation's mixture; none where a share of its own is held out.

    Raises:
        SpecError: there is none.
    """
    said = stage.validation
    assert said is not None
    entries, found = said.mixture or stage.mixture, [_of(d) for d in others or datasets]
    if said.share is None:
        trained = np.concatenate([_of(d) for d in datasets])
        chosen = [~np.isin(own, trained) for own in found]
    else:
        chosen = [own < _below(said.share) for own in found]
    every = np.concatenate([own[is_in] for own, is_in in zip(found, chosen, strict=True)])
    if not len(every):
        raise SpecError(_none(stage, sum(map(len, found))))
    limit = np.unique(every)[: said.limit][-1]
    some, before = [], np.empty(0, np.uint64)
    for dataset, own, is_in in zip(others or datasets, found, chosen, strict=True):
        first = np.unique(own, return_index=True)[1]  # of each digest
        mine = np.zeros(len(own), bool)
        mine[first] = True
        mine &= is_in & (own <= limit) & ~np.isin(own, before)
        before = np.concatenate([before, own[mine]])
        some.append(dataset.only(dataset.numbers[mine]))
    kept = [(_once(entry), d) for entry, d in zip(entries, some, strict=True) if len(d)]
    seen = sum(map(len, found)) - len(every) if said.share is None else 0
    asked = [said.benchmark.model_dump(mode="json")] if said.benchmark else []
    of = digest([sorted(before.tolist()), *asked])[:32]
    return HeldOut(tuple(e for e, _ in kept), [d for _, d in kept], of, seen)


def _once(entry: MixtureEntry) -> MixtureEntry:
    return entry.model_copy(update={"weight": 1.0, "cap": None})


def _none(stage: Stage, samples: int) -> str:
    assert stage.validation
    if stage.validation.share is None:
        return (
            f"stage {stage.name!r} trains on each of the {samples:,} samples of its validate.mixture, so none is held "
            "out; name other data there, or give a share in its place"
        )
    return (
        f"stage {stage.name!r}: validate.share {stage.validation.share:g} holds out none of {samples:,} samples; raise "
        "it, or validate by a mixture"
    )


def opened(stage: Stage, folders: Sequence[Path]) -> list[Dataset]:
    """What a stage trains on, by the indexes of its mixture's datasets; raises as `trained_on` does."""
    return trained_on(stage, _whole(stage.mixture, folders))


def opened_held_out(stage: Stage, folders: Sequence[Path], others: Sequence[Path]) -> HeldOut | None:
    """What a stage is validated by, if it is; raises as `held_out` does."""
    if stage.validation is None:
        return None
    return held_out(stage, _whole(stage.mixture, folders), _whole(stage.validation.mixture, others))


@lru_cache(maxsize=1024)
def held_out_digest(stage: Stage, folders: tuple[Path, ...], others: tuple[Path, ...]) -> str | None:
    """`HeldOut.digest` of a stage, if it is validated; remembered, since a search asks again and again."""
    held = opened_held_out(stage, folders, others)
    return held.digest if held else None


def _whole(mixture: Sequence[MixtureEntry], folders: Sequence[Path]) -> list[Dataset]:
    return [Dataset(folder, entry.skip) for folder, entry in zip(folders, mixture, strict=True)]
