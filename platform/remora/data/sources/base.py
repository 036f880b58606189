"""The protocol of all formats: shards that can be read independently, and their records in LLaVA's format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from remora.data.conversation import Problem, problems
from remora.data.pictures import Picture
from remora.errors import DataError, MissingDataset


@dataclass(frozen=True)
class Shard:
    """A range of a source's records that one worker reads at a time.

    `file` is its file, `first` the number of its first record there, `start` and `end` its range in units of the format
    (bytes, row groups, members), and `bytes` its size, for progress.
    """

    file: str
    first: int
    start: int
    end: int
    bytes: int


@dataclass(frozen=True)
class Raw:
    """One record from a source: LLaVA's mapping (conversation.py), or whatever the file has instead.

    `pictures` are those of its `image` field, in order, if the source contains them: bytes (which are then stored in
    the index) or a byte range of a file. None if `image` names files in the image folder.
    """

    record: Any
    pictures: tuple[Picture | bytes, ...] | None = None
    problems: tuple[Problem, ...] = ()
    """Problems found by the source; if there are any, the record is not in LLaVA's format."""
    unread: tuple[str, ...] = ()
    """Its keys, columns and members that are not read."""

    def flaws(self) -> list[Problem]:
        """Its problems, without its picture files: those found by the source, else `conversation.problems`."""
        return list(self.problems or problems(self.record))


class Source(Protocol):
    """A dataset in its original format. Instances are small and picklable, because workers get one with their
    shards."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files with the records; when one changes, the index is rebuilt."""
        ...

    def shards(self) -> Iterator[Shard]:
        """All shards, in record order.

        Raises:
            DataError: a file is missing or is not of the format.
        """
        ...

    def read(self, shard: Shard) -> Iterator[Raw]:
        """The records of a shard. An unreadable one is a string, which is not a record, so it is reported."""
        ...


@dataclass(frozen=True)
class Files:
    """Several files of one format as one dataset. Records are numbered from 0 in each file."""

    format: Callable[[str], Source]
    files: tuple[str, ...]

    def shards(self) -> Iterator[Shard]:
        for file in self.files:
            yield from self.format(file).shards()

    def read(self, shard: Shard) -> Iterator[Raw]:
        return self.format(shard.file).read(shard)


@contextmanager
def reading(file: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a format's library raises for a broken file (`errors` and the common ones) into one line.

    Raises:
        DataError: the file is missing or not of its format.
    """
    broken: tuple[type[Exception], ...] = (*errors, OSError, ValueError, ArithmeticError, LookupError, TypeError)
    try:
        yield
    except FileNotFoundError:
        raise MissingDataset(f"missing dataset file: {file}") from None
    except broken as e:
        why = " ".join(str(e).split())[:200] or type(e).__name__
        raise DataError(f"unreadable dataset file: {file}: {why}") from None
