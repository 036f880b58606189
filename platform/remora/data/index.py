"""Random access to a dataset's records, through an index of memory-mapped files.

An index is built once (index_builder.py). It has each record's turns and, for each picture, its location, size and
digest. Pictures stay where they are, unless their format does not allow random access. Below data/index/ in the run
folder:

    <name>-<place>/state.json      the state of the dataset's files, and their index
    <name>-<place>/pictures.npz    the state of every picture file, so that only changed ones are read again
    <name>-<place>/<content>/      the index: records.bin, offsets.bin, sums.bin, problems.jsonl, index.json, pictures/

Files in the run folder are known by their place in it, so it can be moved as a whole.

Everything read from an index is verified. sums.bin has a digest of each record, which is compared when the record is
read, so opening an index of any size is fast. Small files are compared when a command opens them, and pictures by their
sha256. An index that does not match loses its manifest, and the next command rebuilds it.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from remora.data.conversation import Sample, Turn
from remora.data.locations import is_url, join, relative
from remora.data.pictures import Picture
from remora.errors import BrokenRecord, DataError, TornArtifact
from remora.files import MANIFEST, digest, manifest, sha256_file
from remora.versions import INDEX

SUM = 16
"""Size of a record's digest in bytes."""
AT_ONCE = 64 << 20
"""Files of an index up to this many bytes are verified as a whole when a command opens it (50 ms)."""


@dataclass(frozen=True)
class Flaw:
    """A problem of one record: the record's number, the kind of problem (docs/data.md) and a description."""

    record: int
    kind: str
    problem: str


def encode_record(name: str | None, system: str, turns: Sequence[Turn], images: Sequence[Picture]) -> bytes:
    """A record as stored in an index; `turns` are without the system message."""
    said = [[t.text, t.images] for t in turns]
    shown = [[p.location, p.offset, p.length, p.sha256, p.size] for p in images]
    return json.dumps([name, said, shown, *([system] if system else [])], separators=(",", ":")).encode()


def record_sum(record: bytes) -> bytes:
    return hashlib.blake2b(record, digest_size=SUM).digest()


def sound(folder: Path) -> bool:
    """Whether the files of an index are intact, by a quick check; the rest is verified when read."""
    try:
        files = manifest(folder)
        for name, sha256 in files.items():
            file = folder / name
            if not name.startswith("pictures/") and file.stat().st_size <= AT_ONCE and sha256_file(file) != sha256:
                return False
    except (OSError, TornArtifact):
        return False
    return True


def _torn(folder: Path, what: str) -> DataError:
    """The error of a damaged index. Its manifest is deleted, so the next command rebuilds it."""
    with suppress(OSError):
        (folder / MANIFEST).unlink(missing_ok=True)
    return DataError(
        f"torn index: {folder}: {what}; run the same command again, which rebuilds it (or delete the folder)"
    )


@dataclass(frozen=True)
class KeptPicture(Picture):
    """A picture stored in the index: if its bytes do not match, the index is damaged."""

    def changed(self) -> DataError:
        file = Path(self.location)
        return _torn(file.parent.parent, f"pictures/{file.name}, byte {self.offset}, does not match its sha256")


class Dataset(Sequence[Sample]):
    """The samples of an index, optionally without those that have problems of given kinds.

    It is memory-mapped: opening takes milliseconds at any size, and the processes of a machine share the pages.
    """

    def __init__(self, folder: Path, without: Sequence[str] = ()) -> None:
        try:
            about = json.loads((folder / "index.json").read_text())
            self._moved = _moved(about.get("runs"), folder)
            if about.pop("sum") != digest(about):
                raise _torn(folder, "index.json does not match its digest")
            self._offsets = _mapped(folder / "offsets.bin").view(np.uint64)
            self._records, self._sums = _mapped(folder / "records.bin"), _mapped(folder / "sums.bin")
        except OSError as e:
            raise DataError(f"unreadable index: {folder}: {e}; delete the folder, it will be rebuilt") from None
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise _torn(folder, str(e).splitlines()[0][:200]) from None
        records: int = about["records"]
        if len(self._offsets) != records + 1:
            raise _torn(folder, "offsets.bin is cut")
        if len(self._records) != int(self._offsets[-1]) or len(self._sums) != SUM * records:
            raise _torn(folder, "records.bin or sums.bin is cut")
        self.folder = folder
        self._problems: str = about["problems_sha256"]
        self._without = tuple(without)
        self.digest: str = about["digest"]
        """sha256 over all records and pictures' bytes, in order. Locations are not part of it."""
        self.counts: Counter[str] = Counter(about["problems"])
        """Kind of problem -> number of records."""
        self.records = len(self._offsets) - 1
        """Number of records in the source, including broken ones."""
        self._shards: list[tuple[int, str, int]] = [(at, self._now(file), n) for at, file, n in about["shards"]]
        skipped = {flaw.record for flaw in self.flaws() if flaw.kind in without} if without else set()
        self.skipped = len(skipped)
        self._kept = np.setdiff1d(np.arange(self.records), np.fromiter(skipped, int)) if skipped else None

    def __reduce__(self) -> tuple[object, ...]:
        return _opened, (self.folder, self._without, self._kept)  # the other process maps the files itself

    def __len__(self) -> int:
        return self.records if self._kept is None else len(self._kept)

    @overload
    def __getitem__(self, i: int) -> Sample: ...
    @overload
    def __getitem__(self, i: slice) -> list[Sample]: ...
    def __getitem__(self, i: int | slice) -> Sample | list[Sample]:
        """A sample by its number.

        Raises:
            BrokenRecord: its record is unreadable.
        """
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        number = self.number(i)
        record = self.record(number)
        if not record:
            flaw = next(f for f in self.flaws() if f.record == number)
            raise BrokenRecord(f"{self.where(number)}: {flaw.problem}", flaw.kind)
        name, said, shown, *system = json.loads(record)
        turns = tuple(Turn("system", text) for text in system) + tuple(
            Turn("assistant", text) if k % 2 else Turn("user", text, images) for k, (text, images) in enumerate(said)
        )
        images = tuple(self._picture(*place) for place in shown)
        return Sample(name if name is not None else self.where(number), turns, images)

    def record(self, number: int) -> bytes:
        """The record of that number in the source, as `encode_record` made it; empty if nothing of it can be read."""
        start, end = self._offsets[number : number + 2].tolist()
        record = self._records[start:end].tobytes() if start <= end else b""
        if record_sum(record) != self._sums[SUM * number : SUM * number + SUM].tobytes():
            raise _torn(self.folder, f"records.bin: record {number} does not match its digest")
        return record

    def spans(self) -> tuple[np.ndarray, memoryview]:
        """(where each record begins, [records + 1], the bytes of all records), not verified."""
        return np.asarray(self._offsets, np.int64), np.asarray(self._records).data

    def number(self, i: int) -> int:
        """The number of a sample's record in the source."""
        return i % len(self) if self._kept is None else int(self._kept[i])

    @property
    def numbers(self) -> np.ndarray:
        """Of every sample, the number of its record in the source."""
        return np.arange(self.records) if self._kept is None else self._kept

    def only(self, numbers: np.ndarray) -> Dataset:
        """The same dataset with no samples but those, by the numbers of their records."""
        some = Dataset.__new__(Dataset)  # not `copy`, which would open the files again
        vars(some).update(vars(self), _kept=numbers)
        return some

    def where(self, number: int) -> str:
        """A record's place in the source, for messages."""
        begins, file, first = self._shards[bisect_right(self._shards, number, key=lambda s: s[0]) - 1]
        return f"{file}: record {first + number - begins}"

    def flaws(self) -> Iterator[Flaw]:
        """Every problem, in record order."""
        return iter(self._flaws)

    @cached_property
    def _flaws(self) -> list[Flaw]:
        content = (self.folder / "problems.jsonl").read_bytes()
        if hashlib.sha256(content).hexdigest() != self._problems:
            raise _torn(self.folder, "problems.jsonl does not match its sha256")
        return [Flaw(*json.loads(line)) for line in content.splitlines()]

    def _picture(
        self, location: str, offset: int, length: int | None, sha256: str, size: tuple[int, int] | None
    ) -> Picture:
        """A picture of a record. Names of pictures stored in the index are relative to its folder."""
        size = (size[0], size[1]) if size else None  # JSON gives lists
        location = self._now(location)
        if location.startswith("/") or is_url(location):
            return Picture(location, offset, length, sha256, size)
        return KeptPicture(str(self.folder / location), offset, length, sha256, size)

    def _now(self, location: str) -> str:
        """Where a file is now that was in the run folder when it was indexed."""
        return join(self._moved[1], relative(self._moved[0], location)) if self._moved else location


def _opened(folder: Path, without: Sequence[str], kept: np.ndarray | None) -> Dataset:
    whole = Dataset(folder, without)
    return whole if kept is None else whole.only(kept)


def _moved(runs: str | None, folder: Path) -> tuple[str, str] | None:
    """(old, new) run folder, if it was moved or copied since indexing; else None."""
    now = runs_of(folder.parent)
    return (runs, now) if runs and runs != now else None


def runs_of(home: Path) -> str:
    """The run folder of a dataset's indexes at `<runs>/data/index/<name>-<place>`."""
    return str(home.absolute().parents[2])


def _mapped(file: Path) -> np.ndarray:
    """A file's bytes, memory-mapped unless it is empty (every record may have a problem)."""
    return np.memmap(file, np.uint8, mode="r") if file.stat().st_size else np.empty(0, np.uint8)


class IndexWriter:
    """Writes the files of an index, shard by shard, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = (folder / "records.bin").open("wb")
        self._sums = (folder / "sums.bin").open("wb")
        self._problems = (folder / "problems.jsonl").open("w")
        self._ends = [0]
        self._shards: list[tuple[int, str, int]] = []
        self._counts: Counter[str] = Counter()
        self._digest = hashlib.sha256()

    @property
    def records(self) -> int:
        return len(self._ends) - 1

    def add(self, file: str, first: int, records: Sequence[bytes], digests: bytes, flaws: Sequence[Flaw]) -> None:
        """Add one shard: its records from `encode_record` (empty if unreadable) and its flaws, numbered from the
        shard's first record."""
        begins = self.records
        self._shards.append((begins, file, first))
        for record in records:
            self._ends.append(self._ends[-1] + len(record))
        self._records.write(b"".join(records))
        self._sums.write(b"".join(map(record_sum, records)))
        self._digest.update(digests)
        for flaw in flaws:
            self._problems.write(json.dumps([begins + flaw.record, flaw.kind, flaw.problem]) + "\n")
        self._counts.update(kind for _, kind in dict.fromkeys((f.record, f.kind) for f in flaws))

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *error: object) -> None:
        for file in (self._records, self._sums, self._problems):
            file.close()

    def finish(self) -> str:
        """Write the remaining files, after the block; returns the content's digest."""
        np.asarray(self._ends, np.uint64).tofile(self.folder / "offsets.bin")
        content = self._digest.hexdigest()
        about = {
            "format": INDEX,
            "digest": content,
            "records": self.records,
            "problems": self._counts,
            "problems_sha256": sha256_file(self.folder / "problems.jsonl"),
            "shards": self._shards,
            "runs": runs_of(self.folder.parent),  # for files that are moved or copied with the index
        }
        (self.folder / "index.json").write_text(json.dumps(about | {"sum": digest(about)}))
        return content
