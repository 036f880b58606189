"""A picture of a dataset: its location, expected sha256, and problems. pixels.py decodes it to RGB.

This imports no torch, because indexing starts many processes.
"""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from remora.data.locations import StoreUnreachable, read
from remora.data.pixels import PictureError, broken, decode, examine_and_measure
from remora.errors import BrokenRecord, DataError

NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Errnos that mean that there is no file of that name: a part of it is missing, a file, a link loop, or too long."""
SHOWN = 300
"""Maximum characters of a name in a message; a data: URL has thousands."""


@dataclass(frozen=True)
class Picture:
    """A picture file, or a byte range of a file (`length` None: the whole file). `sha256` is from indexing."""

    location: str
    offset: int = 0
    length: int | None = None
    sha256: str = ""
    size: tuple[int, int] | None = None
    """Width and height of the decoded RGB, from indexing."""

    def __str__(self) -> str:
        name = self.location
        if len(name) > SHOWN:
            name = f"{name[: SHOWN - 100]}… ({len(name):,} characters)"
        return name if self.length is None else f"{name}[{self.offset}:{self.offset + self.length}]"

    def read(self) -> bytes:
        """Read its bytes.

        Raises:
            BrokenRecord: it does not exist (missing-image) or cannot be read, and a retry would not help
            (corrupt-image). DataError: its store cannot be reached.
        """
        try:
            return read(self.location, self.offset, self.length)
        except StoreUnreachable as e:
            raise DataError(
                f"unreadable image: {self}: {e}; check that its store is reachable, then run the same command again"
            ) from None
        except (OSError, ValueError) as e:  # ValueError: not a valid file name
            if isinstance(e, FileNotFoundError | ValueError) or e.errno in NOWHERE:
                way = "; folders are separated by /, not by \\" if "\\" in self.location else ""
                raise BrokenRecord(
                    f"missing image: {self}; put it there or remove its record{way}",
                    "missing-image",
                    f"{self} is not there{way}",
                ) from None
            raise broken(str(self), PictureError("corrupt-image", e.strerror or str(e))) from None

    def open(self) -> Image.Image:
        """The picture as RGB.

        Raises:
            BrokenRecord: it is missing or unreadable (pixels.decode).
            DataError: its store cannot be reached, or it has changed since it was indexed.
        """
        content = self.read()
        if self.sha256 and hashlib.sha256(content).hexdigest() != self.sha256:
            raise self.changed()
        return decode(content, str(self))

    def changed(self) -> DataError:
        """The error of a picture that has changed since it was indexed."""
        return DataError(f"changed image: {self} has changed since this run began; run the same command again")


def open_image(path: Path) -> Image.Image:
    """A picture file as RGB; see `Picture.open`."""
    return Picture(str(path)).open()


class Examined(NamedTuple):
    """A picture's sha256 (empty if it could not be read), its width and height (if it could be decoded), and its
    problems as (kind, description)."""

    sha256: str
    size: tuple[int, int] | None
    problems: list[tuple[str, str]]


def examined(held: Picture | bytes, name: str = "a picture in the record") -> Examined:
    """Read and decode a picture.

    Raises:
        DataError: its store cannot be reached.
    """
    try:
        content = held if isinstance(held, bytes) else held.read()
    except BrokenRecord as e:
        return Examined("", None, [(e.kind, e.problem)])
    name = name if isinstance(held, bytes) else str(held)
    return Examined(hashlib.sha256(content).hexdigest(), *examine_and_measure(content, name))
