"""Decode the bytes of a picture file to RGB as a person would see it.

check, indexing, training, evaluation and the endpoint all use this reader, so they accept the same pictures. Every
problem has a kind (docs/data.md) and a one-line description; none of Pillow's exceptions escape.
"""

from __future__ import annotations

import ctypes
import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image

from remora.data.signatures import CONVERT, is_text, jpeg_scans, png_pixels, what_it_is
from remora.errors import BrokenRecord

FORMATS: tuple[str, ...] = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "AVIF",
    "BMP",
    "DIB",
    "TIFF",
    "JPEG2000",
    "ICO",
    "CUR",
    "ICNS",
    "PPM",
    "PCX",
)
FORMATS += ("SGI", "PSD", "TGA")
"""The accepted formats. Of Pillow's others, one starts Ghostscript, some are decoded in Python at a second per
megapixel, some have no signature and claim other formats' files, and the rest are not pictures."""
LARGEST = 50_000_000
"""A picture with more pixels than this is reported as oversized: it takes 200 MB to decode, for a few hundred pixels a
side in the end."""
LIMIT = 178_956_970
"""Maximum pixels of a picture (Pillow's limit). Decoding takes at most BYTES per pixel, plus the file."""
BYTES = 32
"""Maximum memory per pixel while decoding, plus the file: JPEG 2000 with alpha. Usual are 8 to 14."""
SCANS = 100
"""Maximum scans of a JPEG. Encoders write a dozen; each costs a pass over all pixels and needs only 50 bytes."""
DARK = 1 << 14
"""A 16-bit picture whose brightest value is below this (a quarter of 65,536) is reported: it has 12- or 14-bit
values."""
FEW = 16
"""A picture of more than one colour, but with fewer shades of 256 than this, is reported."""
NOTED = frozenset({"oversized-image", "narrow-range-image"})
"""Kinds of problems of pictures that can still be read."""
BAND = 1 << 20
"""Pixels converted at a time, so that the whole picture is never copied."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF 2.32, tag 0x0112 -> the transposition that makes the picture upright."""
SIDEWAYS = [TURNS[tag] for tag in (5, 6, 7, 8)]
ORIENTATION = 0x0112
UNKNOWN = "an unknown format"
_PILLOW = re.compile(r"PIL\.")

with suppress(AttributeError, OSError):  # libtiff also prints what it raises, into the user's output
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


class PixelBudget:
    """Limits the decoded pixels that all threads hold. A picture above the limit is admitted when no other is held."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self._held = 0
        self._freed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait for room for `pixels`, and hold it during the block."""
        with self._freed:
            self._freed.wait_for(lambda: not self._held or self._held + pixels <= self.pixels)
            self._held += pixels
        try:
            yield
        finally:
            with self._freed:
                self._held -= pixels
                self._freed.notify_all()


_BUDGET = PixelBudget(LIMIT)


class PictureError(Exception):
    """A picture's bytes are refused: the kind of problem, a description, and advice."""

    def __init__(self, kind: str, why: str, way: str = "") -> None:
        super().__init__(kind, why, way)
        self.kind, self.why, self.way = kind, why, way


def decode(content: bytes, name: str) -> Image.Image:
    """Decode a picture file to RGB: the first frame, upright by its EXIF, transparency on white, without metadata.

    Raises:
        BrokenRecord: the bytes cannot be decoded (corrupt-image), the format or pixel type is not supported
            (unsupported-image), or it has more than LIMIT pixels (too-large-image).
    """
    try:
        return rgb(content)
    except PictureError as e:
        raise broken(name, e) from None


def broken(name: str, refused: PictureError) -> BrokenRecord:
    """The error of a picture that is refused."""
    way = refused.way or "replace the file or remove its record"
    problem = f"{name}: {refused.why}" + (f"; {refused.way}" if refused.way else "")
    return BrokenRecord(f"unreadable image: {name}: {refused.why}; {way}", refused.kind, problem)


def rgb(content: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """As `decode`, for callers that make their own message.

    Raises:
        PictureError: the picture cannot be read.
    """
    with opened(content, formats) as image, _BUDGET.hold(image.width * image.height), reading():
        return _coloured(_upright(image), content)


def examine(content: bytes, name: str) -> list[tuple[str, str]]:
    """All problems of a picture's bytes as (kind, description), including those that `decode` raises."""
    return examine_and_measure(content, name)[1]


def examine_and_measure(content: bytes, name: str) -> tuple[tuple[int, int] | None, list[tuple[str, str]]]:
    """(width and height of what `decode` returns, or None if it raises; the problems that `examine` returns).

    A JPEG is decoded at 1/8 scale, which reads all of its data in a fifth to a half of the time.
    """
    found: list[tuple[str, str]] = []
    upright: tuple[int, int] | None = None
    try:
        with opened(content) as image, _BUDGET.hold(image.width * image.height):
            if image.width * image.height > LARGEST:
                size = f"{image.width} x {image.height} pixels"
                found.append(("oversized-image", f"{name} has {size}; {LARGEST:,} are plenty"))
            quick, as_stored = image.format in ("JPEG", "MPO"), image.size
            with reading():
                if quick:
                    image.draft("RGB", (1, 1))
                native = _upright(image)
                seen = _coloured(native, content)
                low, high = _extrema(seen)
            upright = (as_stored[1], as_stored[0]) if _turn(image) in SIDEWAYS else as_stored
        if quick and high - low < FEW:  # these are averages of 8 x 8 pixels: single pixels may differ more
            low, high = _extrema(rgb(content))
        if few := _few(native, low, high):
            found.append(("narrow-range-image", f"{name}: {few}"))
    except PictureError as e:
        found.append((e.kind, broken(name, e).problem))
    return upright, found


@contextmanager
def opened(content: bytes, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Open a picture and read only its header.

    Raises:
        PictureError: it is not a picture, not one of `formats`, or too large.
    """
    if not content:
        raise PictureError("corrupt-image", "the file is empty")
    if kind := what_it_is(content):
        raise PictureError(*kind)
    if jpeg_scans(content, SCANS) > SCANS:
        raise PictureError("unsupported-image", f"a JPEG of more than {SCANS} scans", CONVERT)
    with reading():
        try:
            image = Image.open(io.BytesIO(png_pixels(content)), formats=formats)
        except Image.UnidentifiedImageError:
            what = "text, not a picture" if is_text(content) else UNKNOWN
            raise PictureError("corrupt-image", what) from None
    with image:
        if image.width * image.height > LIMIT:
            raise _too_large(image.width * image.height)
        yield image


@contextmanager
def reading() -> Iterator[None]:
    """Turn anything that Pillow raises into PictureError: hostile headers make its parsers raise anything.

    Its warnings are about unused metadata and contain paths of this installation, so they are ignored. The filter is
    permanent, because a temporary one would affect other threads.
    """
    if not warnings.filters or warnings.filters[0][3] is not _PILLOW:
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)
    try:
        yield
    except PictureError:
        raise
    except Image.DecompressionBombError as e:
        found = re.search(r"(\d+) pixels", str(e))
        raise _too_large(int(found[1]) if found else LIMIT + 1) from e
    except MemoryError as e:
        raise PictureError("corrupt-image", "its header asks for more memory than there is") from e
    except Exception as e:
        first = (str(e).splitlines() or [""])[0][:200]
        raise PictureError("corrupt-image", first or type(e).__name__) from e


def _too_large(pixels: int) -> PictureError:
    return PictureError("too-large-image", f"it has {pixels:,} pixels, more than {LIMIT:,}", "make it smaller")


def _upright(image: Image.Image) -> Image.Image:
    """Load the pixels, turned by EXIF's orientation. The rest of EXIF is neither parsed nor rewritten."""
    image.load()
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transposition that makes a picture upright. It must be loaded: some formats have EXIF after the pixels."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001  (metadata that no parser reads turns nothing; the pixels are whole)
        return None


def _coloured(image: Image.Image, content: bytes) -> Image.Image:
    """A picture of any mode as RGB.

    Raises:
        PictureError: the range or colour of its pixels is undefined.
    """
    if image.mode == "F":
        raise PictureError("unsupported-image", "its pixels are floating-point numbers without a stated range", CONVERT)
    if image.mode == "LAB":
        raise PictureError("unsupported-image", "its colours are CIELAB", CONVERT)
    if image.mode == "I" and not _sixteen_bits(image):
        low, high = _extrema(image)
        raise PictureError(
            "unsupported-image", f"its pixels are 32-bit numbers from {low:,} to {high:,}, of 0 to 65,535 read", CONVERT
        )
    hidden = _hidden_colour(image, content)
    if hidden is None:
        image.info.pop("transparency", None)
    elif image.mode == "RGB":
        image.info["transparency"] = hidden
    if image.mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr") and hidden is None:
        out = image.convert("RGB")
    else:
        out = Image.new("RGB", image.size)
        rows = max(1, BAND // image.width)
        for top in range(0, image.height, rows):
            band = image.crop((0, top, image.width, min(image.height, top + rows)))
            out.paste(_band(band, hidden), (0, top))
    out.info = {}
    return out


def _band(image: Image.Image, hidden: object) -> Image.Image:
    """Some rows as RGB. Of 16-bit values the upper 8 bits are used, as Pillow does for colour pictures."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        shades = (values >> 8).astype(np.uint8)
        if isinstance(hidden, int):
            shades[values == hidden] = 255
        return Image.fromarray(shades).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or hidden is not None:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _hidden_colour(image: Image.Image, content: bytes) -> object:
    """The transparent colour or the palette's alpha, if the picture has one that is valid for its mode."""
    hidden = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(hidden, tuple) and len(hidden) == 3:
        deep = content.startswith(b"\x89PNG") and content[24] == 16
        return tuple(v >> 8 for v in hidden) if deep else hidden
    fits = isinstance(hidden, int | bytes) if image.mode == "P" else isinstance(hidden, int)
    return hidden if fits and (image.mode in ("P", "L", "1") or image.mode.startswith("I;16")) else None


def _extrema(image: Image.Image) -> tuple[int, int]:
    """(lowest, highest) of the channel that uses most of its range."""
    if image.mode.startswith("I"):  # Pillow supports only some of these
        values = np.asarray(image)
        return int(values.min()), int(values.max())
    low, high = max(np.array(image.getextrema(), int).reshape(-1, 2).tolist(), key=lambda found: found[1] - found[0])
    return low, high


def _sixteen_bits(image: Image.Image) -> bool:
    """Whether 32-bit numbers are 16-bit values: always in a PGM, and in other files if all are in that range."""
    low, high = _extrema(image)
    return low >= 0 and high <= 65_535


def _few(native: Image.Image, low: int, high: int) -> str:
    """The problem of a picture whose shades, `low` to `high`, use little of the range; empty if none."""
    if native.mode.startswith("I"):
        _, brightest = _extrema(native)
        return f"its 16-bit values end at {brightest:,} of 65,535, so it is dark" if brightest < DARK else ""
    return f"no channel has more than {high - low + 1} of 256 shades" if 0 < high - low < FEW else ""
