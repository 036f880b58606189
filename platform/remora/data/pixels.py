"""The bytes of a picture file as the RGB that a person would see: the one reader of them all.

check, index, training, evaluation and the endpoint come here, so a picture is sound in all of these places or in none.
What is wrong with one has a kind (docs/data.md) and a line; nothing that Pillow raises gets out.
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
"""What is read. Of Pillow's other formats one starts Ghostscript, some are decoded in Python at a second for a
megapixel, some know their files by no mark and take others' for them, and the rest are no pictures."""
LARGEST = 50_000_000
"""Pixels from which on a picture is called oversized: 200 MB to decode, for the few hundred of a side that are read."""
LIMIT = 178_956_970
"""Pixels that a picture may have: Pillow's own limit. Reading one takes at most BYTES a pixel, besides its file."""
BYTES = 32
"""Memory of a pixel while its picture is decoded, at most, besides its file: JPEG 2000 with alpha. 8 to 14 is usual."""
SCANS = 100
"""Scans that a JPEG may have. Encoders write a dozen; each costs a pass over all pixels and can be made of 50 bytes."""
DARK = 1 << 14
"""Pictures of 16 bits whose brightest value is below this quarter of 65,536 are noted: 12-bit and 14-bit values."""
FEW = 16
"""Shades of 256 below which a picture that is not of one colour is noted."""
NOTED = frozenset({"oversized-image", "narrow-range-image"})
"""Kinds of problems that leave a picture to read."""
BAND = 1 << 20
"""Pixels that are converted at a time, so that no copy of the whole picture is made on the way."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF 2.32, tag 0x0112 -> what makes the picture upright."""
SIDEWAYS = [TURNS[tag] for tag in (5, 6, 7, 8)]
ORIENTATION = 0x0112
UNKNOWN = "no decoder knows it"
_PILLOW = re.compile(r"PIL\.")

with suppress(AttributeError, OSError):  # libtiff prints what it raises as well, between the lines of whoever reads
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


class PixelBudget:
    """How many pixels threads may hold decoded at once. One picture is let in alone, however large it is."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self._held = 0
        self._freed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until there is room, and keep it while the block runs."""
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
    """Why a picture's bytes are not read: the kind of problem, what it is, and what to do."""

    def __init__(self, kind: str, why: str, way: str = "") -> None:
        super().__init__(kind, why, way)
        self.kind, self.why, self.way = kind, why, way


def decode(content: bytes, name: str) -> Image.Image:
    """A picture file's bytes as RGB: the first frame, upright by its EXIF, transparency on white, without metadata.

    Raises:
        BrokenRecord: no decoder reads them to their end (corrupt-image), the format or its pixels are not read here
            (unsupported-image), or there are more than LIMIT of them (too-large-image).
    """
    try:
        return rgb(content)
    except PictureError as e:
        raise broken(name, e) from None


def broken(name: str, refused: PictureError) -> BrokenRecord:
    """The error of a picture that is not read."""
    way = refused.way or "replace the file or remove its record"
    problem = f"{name}: {refused.why}" + (f"; {refused.way}" if refused.way else "")
    return BrokenRecord(f"unreadable image: {name}: {refused.why}; {way}", refused.kind, problem)


def rgb(content: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """As `decode`, for callers that say themselves what is wrong.

    Raises:
        PictureError: the bytes are not read.
    """
    with opened(content, formats) as image, _BUDGET.hold(image.width * image.height), reading():
        return _coloured(_upright(image), content)


def examine(content: bytes, name: str) -> list[tuple[str, str]]:
    """Everything that is wrong with a picture's bytes: (kind, what it is), whether `decode` reads them included."""
    return examine_and_measure(content, name)[1]


def examine_and_measure(content: bytes, name: str) -> tuple[tuple[int, int] | None, list[tuple[str, str]]]:
    """(width and height as `decode` gives them, None if it does not; what `examine` says).

    A JPEG is decoded at an eighth of its scale, which reads all of its data in a fifth to a half of the time.
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
        if quick and high - low < FEW:  # averages of 8 x 8 pixels: the pixels themselves may differ more
            low, high = _extrema(rgb(content))
        if few := _few(native, low, high):
            found.append(("narrow-range-image", f"{name}: {few}"))
    except PictureError as e:
        found.append((e.kind, broken(name, e).problem))
    return upright, found


@contextmanager
def opened(content: bytes, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """The picture with its header read, and no pixel of it.

    Raises:
        PictureError: it is none, it is none of `formats`, or it is too large.
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
            what = "a text, not a picture" if is_text(content) else UNKNOWN
            raise PictureError("corrupt-image", what) from None
    with image:
        if image.width * image.height > LIMIT:
            raise _too_large(image.width * image.height)
        yield image


@contextmanager
def reading() -> Iterator[None]:
    """Whatever Pillow raises for a file, as PictureError: hostile headers make its parsers raise anything.

    Its warnings tell of metadata that nobody reads here, with paths of this installation; they are left out. That is by
    a filter that stays: one for a block would be another thread's, too.
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
    """All of its pixels, turned as EXIF says. The rest of EXIF is not parsed, and none of it is written anew."""
    image.load()
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes a picture upright that is loaded; some formats keep EXIF behind the pixels."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001  (metadata that no parser reads turns nothing; the pixels are whole)
        return None


def _coloured(image: Image.Image, content: bytes) -> Image.Image:
    """A picture of any mode as RGB.

    Raises:
        PictureError: its pixels have no stated range or colour.
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
    """Some rows as RGB. Of 16 bits the upper 8 are read, as Pillow reads those of colours."""
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
    """The colour or the palette's alpha that stands for nothing, if the picture has one that its mode can have."""
    hidden = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(hidden, tuple) and len(hidden) == 3:
        deep = content.startswith(b"\x89PNG") and content[24] == 16
        return tuple(v >> 8 for v in hidden) if deep else hidden
    fits = isinstance(hidden, int | bytes) if image.mode == "P" else isinstance(hidden, int)
    return hidden if fits and (image.mode in ("P", "L", "1") or image.mode.startswith("I;16")) else None


def _extrema(image: Image.Image) -> tuple[int, int]:
    """(lowest, highest) of the channel that uses most of its range."""
    if image.mode.startswith("I"):  # of which Pillow knows some
        values = np.asarray(image)
        return int(values.min()), int(values.max())
    low, high = max(np.array(image.getextrema(), int).reshape(-1, 2).tolist(), key=lambda found: found[1] - found[0])
    return low, high


def _sixteen_bits(image: Image.Image) -> bool:
    """Whether 32-bit numbers are those of 16 bits: a PGM's are, and other files' where all lie in that range."""
    low, high = _extrema(image)
    return low >= 0 and high <= 65_535


def _few(native: Image.Image, low: int, high: int) -> str:
    """What is to be said of a picture with shades from `low` to `high` that uses a sliver of its range; else empty."""
    if native.mode.startswith("I"):
        _, brightest = _extrema(native)
        return f"its 16-bit values end at {brightest:,} of 65,535, so it is dark" if brightest < DARK else ""
    return f"no channel has more than {high - low + 1} of 256 shades" if 0 < high - low < FEW else ""
