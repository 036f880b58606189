"""A picture of a dataset: where its bytes are, what they should be, and what is wrong with them. pixels.py makes RGB of
them. No torch in here: the processes that index a dataset are many and start often."""

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
"""Why there is no file under a name: a part of it is missing, a file, a circle of links, or too long."""
SHOWN = 300
"""Characters of a name that a message shows: a data: URL in its place has thousands."""


@dataclass(frozen=True)
class Picture:
    """A file, or a range of one (`length` is None for the whole). `sha256` is of its bytes when they were indexed."""

    location: str
    offset: int = 0
    length: int | None = None
    sha256: str = ""
    size: tuple[int, int] | None = None
    """Width and height of the RGB that it opens as, when it was indexed."""

    def __str__(self) -> str:
        name = self.location
        if len(name) > SHOWN:
            name = f"{name[: SHOWN - 100]}… ({len(name):,} characters)"
        return name if self.length is None else f"{name}[{self.offset}:{self.offset + self.length}]"

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            BrokenRecord: it is not there (missing-image) or cannot be read, whoever asks and when (corrupt-image).
            DataError: its store is away; nothing is known of the picture.
        """
        try:
            return read(self.location, self.offset, self.length)
        except StoreUnreachable as e:
            raise DataError(
                f"unreadable image: {self}: {e}; see that its store answers, then run the same command again"
            ) from None
        except (OSError, ValueError) as e:  # ValueError: a name that no file can have
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
            BrokenRecord: it is missing or is not read (pixels.decode).
            DataError: its store is away, or it is not what was indexed.
        """
        content = self.read()
        if self.sha256 and hashlib.sha256(content).hexdigest() != self.sha256:
            raise self.changed()
        return decode(content, str(self))

    def changed(self) -> DataError:
        """The error of a picture whose bytes are not those that were indexed."""
        return DataError(f"changed image: {self} is not what it was when this run began; run the same command again")


def open_image(path: Path) -> Image.Image:
    """A picture file as RGB; see `Picture.open`."""
    return Picture(str(path)).open()


class Examined(NamedTuple):
    """A picture's sha256, empty where there are no bytes; its width and height, if it is read; and what is to be said
    of it: (kind, what it is)."""

    sha256: str
    size: tuple[int, int] | None
    problems: list[tuple[str, str]]


def examined(held: Picture | bytes, name: str = "a picture in the record") -> Examined:
    """Read and decode a picture.

    Raises:
        DataError: its store is away.
    """
    try:
        content = held if isinstance(held, bytes) else held.read()
    except BrokenRecord as e:
        return Examined("", None, [(e.kind, e.problem)])
    name = name if isinstance(held, bytes) else str(held)
    return Examined(hashlib.sha256(content).hexdigest(), *examine_and_measure(content, name))
