"""A picture of a dataset: where its bytes are, what they should be, and how they become RGB. No torch in here: the
processes that index a dataset are many and start often."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from remora.data.locations import Unreachable, read
from remora.errors import BrokenRecord, DataError

UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
"""What Pillow's decoders raise for a broken file."""
LARGEST = 50_000_000
"""Pixels from which on a picture is called oversized: 150 MB to decode, for the few hundred of a side that are read."""


@dataclass(frozen=True)
class Picture:
    """A file, or a range of one (`length` is None for the whole). `sha256` is of its bytes when they were indexed."""

    location: str
    offset: int = 0
    length: int | None = None
    sha256: str = ""

    def __str__(self) -> str:
        return self.location if self.length is None else f"{self.location}[{self.offset}:{self.offset + self.length}]"

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            DataError: its store is away; nothing is known of the picture.
            OSError: it is not there (FileNotFoundError) or cannot be read, whoever asks and when.
        """
        try:
            return read(self.location, self.offset, self.length)
        except Unreachable as e:
            raise DataError(
                f"unreadable image: {self}: {e}; see that its store answers, then run the same command again"
            ) from None

    def open(self) -> Image.Image:
        """The picture as RGB.

        Raises:
            BrokenRecord: it is missing or cannot be decoded.
            DataError: its store is away, or it is not what was indexed.
        """
        try:
            content = self.read()
        except FileNotFoundError:
            raise BrokenRecord(f"missing image: {self}; put it there or remove its record", "missing-image") from None
        except OSError as e:
            raise BrokenRecord(f"unreadable image: {self}: {e}; replace the file or remove its record") from None
        if self.sha256 and hashlib.sha256(content).hexdigest() != self.sha256:
            raise DataError(f"changed image: {self} is not what it was when this run began; run the same command again")
        return decode(content, str(self))


def open_image(path: Path) -> Image.Image:
    """A picture file as RGB; see `Picture.open`."""
    return Picture(str(path)).open()


def decode(content: bytes, name: str) -> Image.Image:
    """A picture file's bytes as RGB.

    Raises:
        BrokenRecord: no decoder reads them to their end.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return to_rgb(image)
    except UNREADABLE as e:
        raise BrokenRecord(f"unreadable image: {name}: {_reason(e)}; replace the file or remove its record") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """First frame, upright (EXIF), transparency on white, as RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion clips to white
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def picture_problem(content: bytes, name: str, decode: bool) -> tuple[str, str] | None:
    """(kind, what it is) that is wrong with a picture's bytes, or None.

    Walking a file's chunks and checksums takes a tenth of decoding it, but a JPEG has none to tell that it was cut:
    `decode` is the sure way.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > LARGEST:
                return "oversized-image", f"{name} has {width} x {height} pixels; {LARGEST:,} are plenty"
            if decode:
                image.load()
            else:
                image.verify()
    except Image.DecompressionBombError as e:
        return "oversized-image", f"{name}: {e}"
    except UNREADABLE as e:
        return "corrupt-image", f"{name}: {_reason(e)}"
    return None


def _reason(error: BaseException) -> str:
    """A decoder's message without the address of the buffer that it was given."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return "no decoder knows it" if first.startswith("cannot identify image file") else first
