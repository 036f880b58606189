"""What every format gives: shards that can be read by themselves, and their records in LLaVA's form."""

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
    """A stretch of a source's records: what one worker reads in one go.

    `file` is where it lies, `first` the number of its first record there, `start` and `end` what they are to the format
    (bytes, row groups, members), and `bytes` its share of the work.
    """

    file: str
    first: int
    start: int
    end: int
    bytes: int


@dataclass(frozen=True)
class Raw:
    """One record as a source has it: LLaVA's mapping (conversation.py), or whatever stands in its place.

    `pictures` are those that its `image` field names, in order, where the source holds them itself: bytes (they will be
    kept beside the index) or a range of a file. None where the names are of files below the image folder.
    """

    record: Any
    pictures: tuple[Picture | bytes, ...] | None = None
    problems: tuple[Problem, ...] = ()
    """What its source found wrong with it; then its record is not in LLaVA's form."""
    unread: tuple[str, ...] = ()
    """Keys, columns and members of it that nothing reads."""

    def flaws(self) -> list[Problem]:
        """What is wrong with it, its pictures' files aside: what its source found, else `conversation.problems`."""
        return list(self.problems or problems(self.record))


class Source(Protocol):
    """A dataset as it lies. Instances are small and picklable: workers get one with the shards that they read."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files that hold the records; when one changes, the index is built anew."""
        ...

    def shards(self) -> Iterator[Shard]:
        """Its records in order, cut into shards.

        Raises:
            DataError: a file is missing or is not of the format.
        """
        ...

    def read(self, shard: Shard) -> Iterator[Raw]:
        """The records of a shard. One that cannot be read comes as a string, which no record is, so it is named."""
        ...


@dataclass(frozen=True)
class Files:
    """Several files of one format as one dataset. Records count from 0 in each."""

    format: Callable[[str], Source]
    files: tuple[str, ...]

    def shards(self) -> Iterator[Shard]:
        for file in self.files:
            yield from self.format(file).shards()

    def read(self, shard: Shard) -> Iterator[Raw]:
        return self.format(shard.file).read(shard)


@contextmanager
def reading(file: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a format's library raises for a file that is broken, `errors` and the usual ones, into one line.

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
