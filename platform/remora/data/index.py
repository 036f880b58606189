"""A dataset that is opened without being read: any record by its number, from memory-mapped files.

An index is built once (see index_builder.py) and holds every record as its turns and the places of its pictures, with
the size of each picture and a digest of its bytes. Pictures stay where they are, unless their format cannot be read at
random. Below the index folder of a run folder's data:

    <name>-<place>/state.json      where the dataset lies, its files as they were, and which index they have
    <name>-<place>/pictures.npz    every picture file as it was, so that only what changed is read again
    <name>-<place>/<content>/      the index: records.bin, offsets.bin, sums.bin, problems.jsonl, index.json, pictures/

Nothing is taken from an index that is not what was written. sums.bin has a digest of each record, compared when it is
read, so that opening stays fast whatever an index holds; small files are compared when a command opens them, and
pictures have their sha256. An index that fails loses its manifest, and the next command builds it anew.
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
from typing import Any, overload

import numpy as np

from remora.data.conversation import Sample, Turn
from remora.data.locations import is_url
from remora.data.pictures import Picture
from remora.errors import BrokenRecord, DataError, TornArtifact
from remora.files import MANIFEST, digest, manifest, sha256_file

FORMAT = 6
"""Raise by hand when an index is written or records are read differently; those of another format are built anew."""


SUM = 16
"""Bytes of a record's digest."""
AT_ONCE = 64 << 20
"""Bytes up to which a file of an index is compared as a whole when a command opens it: 50 ms."""


@dataclass(frozen=True)
class Flaw:
    """What is wrong with one record: its number, the kind of problem (docs/data.md) and the problem in words."""

    record: int
    kind: str
    problem: str


def encode_record(name: str | None, system: str, turns: Sequence[Turn], images: Sequence[Picture]) -> bytes:
    """A record as an index keeps it; `turns` are those after the system message, if it has one."""
    said = [[t.text, t.images] for t in turns]
    shown = [[p.location, p.offset, p.length, p.sha256, p.size] for p in images]
    return json.dumps([name, said, shown, *([system] if system else [])], separators=(",", ":")).encode()


def record_sum(record: bytes) -> bytes:
    return hashlib.blake2b(record, digest_size=SUM).digest()


def sound(folder: Path) -> bool:
    """Whether the files of an index are what was written, as far as that is quickly known; the rest shows when read."""
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
    """The error of an index that is not what was written. Without its manifest it is none, so it is built anew."""
    with suppress(OSError):
        (folder / MANIFEST).unlink(missing_ok=True)
    return DataError(
        f"torn index: {folder}: {what}; run the same command again, which builds it anew (or delete the folder)"
    )


@dataclass(frozen=True)
class KeptPicture(Picture):
    """A picture that an index keeps itself: if it has changed, the index is torn."""

    def changed(self) -> DataError:
        file = Path(self.location)
        return _torn(file.parent.parent, f"pictures/{file.name}, byte {self.offset}, does not match its sha256")


class Dataset(Sequence[Sample]):
    """The samples of an index: all, or without those that have problems of some kinds.

    Memory-mapped: opening costs milliseconds whatever it holds, and the processes of a machine share the pages.
    """

    def __init__(self, folder: Path, without: Sequence[str] = ()) -> None:
        try:
            about = json.loads((folder / "index.json").read_text())
            self._moved = _moved(about.get("root"), folder)
            if about.pop("sum") != digest(about):
                raise _torn(folder, "index.json does not match its digest")
            self._offsets = _mapped(folder / "offsets.bin").view(np.uint64)
            self._records, self._sums = _mapped(folder / "records.bin"), _mapped(folder / "sums.bin")
        except OSError as e:
            raise DataError(f"unreadable index: {folder}: {e}; delete the folder, it will be built again") from None
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
        """sha256 of every record and every picture's bytes, in order; not of where they lie."""
        self.counts: Counter[str] = Counter(about["problems"])
        """Kind of problem -> records that have it."""
        self.records = len(self._offsets) - 1
        """Records of the source, broken ones included."""
        self._shards: list[tuple[int, str, int]] = [tuple(s) for s in about["shards"]]
        skipped = {flaw.record for flaw in self.flaws() if flaw.kind in without} if without else set()
        self.skipped = len(skipped)
        self._kept = np.setdiff1d(np.arange(self.records), np.fromiter(skipped, int)) if skipped else None

    def __reduce__(self) -> tuple[Any, ...]:
        return Dataset, (self.folder, self._without)  # another process maps the files itself

    def __len__(self) -> int:
        return self.records if self._kept is None else len(self._kept)

    @overload
    def __getitem__(self, i: int) -> Sample: ...
    @overload
    def __getitem__(self, i: slice) -> list[Sample]: ...
    def __getitem__(self, i: int | slice) -> Sample | list[Sample]:
        """A sample by its number.

        Raises:
            BrokenRecord: its record has a problem that leaves nothing to read.
        """
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        number = self.number(i)
        start, end = self._offsets[number : number + 2].tolist()
        record = self._records[start:end].tobytes() if start <= end else b""
        if record_sum(record) != self._sums[SUM * number : SUM * number + SUM].tobytes():
            raise _torn(self.folder, f"records.bin: record {number} does not match its digest")
        if not record:
            flaw = next(f for f in self.flaws() if f.record == number)
            raise BrokenRecord(f"{self.where(number)}: {flaw.problem}", flaw.kind)
        name, said, shown, *system = json.loads(record)
        turns = tuple(Turn("system", text) for text in system) + tuple(
            Turn("assistant", text) if k % 2 else Turn("user", text, images) for k, (text, images) in enumerate(said)
        )
        images = tuple(self._picture(*place) for place in shown)
        return Sample(name if name is not None else self.where(number), turns, images)

    def number(self, i: int) -> int:
        """The number of a sample's record in the source."""
        return i % len(self) if self._kept is None else int(self._kept[i])

    def where(self, number: int) -> str:
        """A record's place in the source, for people."""
        begins, file, first = self._shards[bisect_right(self._shards, number, key=lambda s: s[0]) - 1]
        return f"{file}: record {first + number - begins}"

    def flaws(self) -> Iterator[Flaw]:
        """Every problem, in the order of records."""
        return (Flaw(*flaw) for flaw in self._flaws)

    @cached_property
    def _flaws(self) -> list[list[Any]]:
        content = (self.folder / "problems.jsonl").read_bytes()
        if hashlib.sha256(content).hexdigest() != self._problems:
            raise _torn(self.folder, "problems.jsonl does not match its sha256")
        return [json.loads(line) for line in content.splitlines()]

    def _picture(
        self, location: str, offset: int, length: int | None, sha256: str, size: tuple[int, int] | None
    ) -> Picture:
        """Pictures that the index keeps itself are named below it."""
        size = (size[0], size[1]) if size else None  # JSON has lists
        if self._moved and location.startswith(self._moved[0]):
            return Picture(self._moved[1] + location.removeprefix(self._moved[0]), offset, length, sha256, size)
        if location.startswith("/") or is_url(location):
            return Picture(location, offset, length, sha256, size)
        return KeptPicture(str(self.folder / location), offset, length, sha256, size)


def _moved(root: str | None, folder: Path) -> tuple[str, str] | None:
    """Where pictures below the data folder were, and where they are, if it was moved or copied since."""
    now = data_folder(folder)
    return (f"{root}/", f"{now}/") if root and root != now else None


def data_folder(folder: Path) -> str:
    """The data folder that an index belongs to: `<data>/index/<name>-<place>/<content>`."""
    return str(folder.absolute().parents[2])


def _mapped(file: Path) -> np.ndarray:
    """A file's bytes; nothing maps an empty one (every record may have a problem)."""
    return np.memmap(file, np.uint8, mode="r") if file.stat().st_size else np.empty(0, np.uint8)


class IndexWriter:
    """Fills the folder of an index, shard by shard, in order."""

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
        """One shard: its records as `encode_record` made them (empty for those that cannot be read) and flaws, whose
        numbers count from the shard's first record."""
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
        """Write what is left, after the block; returns the content's digest."""
        np.asarray(self._ends, np.uint64).tofile(self.folder / "offsets.bin")
        content = self._digest.hexdigest()
        about = {
            "format": FORMAT,
            "digest": content,
            "records": self.records,
            "problems": self._counts,
            "problems_sha256": sha256_file(self.folder / "problems.jsonl"),
            "shards": self._shards,
            "root": data_folder(self.folder),  # where pictures lie that are moved or copied with the index
        }
        (self.folder / "index.json").write_text(json.dumps(about | {"sum": digest(about)}))
        return content
