"""Pictures of every format that Pillow writes, hurt: read or refused by a kind, and check says what training does.

REMORA_FUZZ_CASES=100000 python -m pytest tests/fuzz/test_fuzz_pictures.py
"""

from __future__ import annotations

import io
import random
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cases import cases
from PIL import Image

from remora.data.pixels import BYTES, NOTED, PictureError, decode, examine, opened
from remora.errors import BrokenRecord

KINDS = {"corrupt-image", "unsupported-image", "too-large-image"}
PLAIN = {
    "AVIF": ("RGB", "RGBA"),
    "BLP": ("P",),
    "BMP": ("RGB", "L", "1", "P", "RGBA"),
    "DDS": ("RGB", "RGBA"),
    "DIB": ("RGB", "L"),
    "EPS": ("RGB", "L", "CMYK"),
    "GIF": ("P", "L", "RGB"),
    "ICNS": ("RGBA",),
    "ICO": ("RGBA", "RGB", "P"),
    "IM": ("RGB", "L", "F"),
    "JPEG": ("RGB", "L", "CMYK"),
    "JPEG2000": ("RGB", "L", "RGBA", "LA", "I;16"),
    "MPO": ("RGB", "L"),
    "MSP": ("1",),
    "PCX": ("RGB", "L", "1", "P"),
    "PDF": ("RGB",),
    "PNG": ("RGB", "RGBA", "L", "LA", "1", "P", "I;16"),
    "PPM": ("RGB", "L", "1", "I", "F", "I;16"),
    "QOI": ("RGB", "RGBA"),
    "SGI": ("RGB", "RGBA", "L"),
    "SPIDER": ("F",),
    "TGA": ("RGB", "RGBA", "L", "P", "LA"),
    "TIFF": ("RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I", "F"),
    "WEBP": ("RGB", "RGBA"),
    "XBM": ("1",),
}
"""Format -> modes that it is written from."""


def noise(rng: random.Random, mode: str) -> Image.Image:
    size = rng.choice([(1, 1), (7, 5), (16, 16), (33, 20), (1, 90), (64, 1)])
    values = np.random.default_rng(rng.getrandbits(32))
    if mode in ("I;16", "I;16B"):
        return Image.fromarray(values.integers(0, 65536, size[::-1]).astype("<u2" if mode == "I;16" else ">u2"))
    if mode == "I":
        return Image.fromarray(values.integers(0, rng.choice([256, 65536, 2**31 - 1]), size[::-1]).astype(np.int32))
    if mode == "F":
        return Image.fromarray(values.random(size[::-1]).astype(np.float32))
    bands = len(Image.new(mode, (1, 1)).getbands())
    planes = [Image.fromarray(values.integers(0, 256, size[::-1]).astype(np.uint8)) for _ in range(bands)]
    if mode == "1":
        return planes[0].convert("1")
    if mode == "P":
        return planes[0].convert("RGB").quantize(rng.choice([2, 16, 256]))
    return planes[0] if mode == "L" else Image.merge(mode, planes)


def exif(rng: random.Random) -> bytes:
    """An orientation, and tags of any type, number and place beside it."""
    order = rng.choice("<>")
    entries = [(0x0112, rng.choice([3, 3, 3, 1, 4, 2]), 1, rng.choice([*range(10), 65535]))]
    for _ in range(rng.randrange(5)):
        tag = rng.choice([0x8769, 0x8825, 0xA005, 0x927C, 0x0103, rng.randrange(65536)])
        entries.append((tag, rng.randrange(16), rng.choice([0, 1, 2, 5, 2**31]), rng.getrandbits(32)))
    rng.shuffle(entries)
    body = struct.pack(order + "H", len(entries) + rng.choice([0, 0, 0, 3]))
    for tag, kind, count, value in entries:
        body += struct.pack(order + "HHI", tag, kind, count)
        body += struct.pack(order + "HH", value & 65535, 0) if kind == 3 else struct.pack(order + "I", value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return (
        b"Exif\0\0" + head + body + struct.pack(order + "I", rng.choice([0, 8, 99])) + rng.randbytes(rng.randrange(40))
    )


def chunk(kind: bytes, data: bytes, right: bool = True) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ (not right))


@cache
def icns() -> bytes:
    """It holds icons of up to 1,024 x 1,024 pixels, which take a second to write."""
    out = io.BytesIO()
    Image.new("RGBA", (16, 16), "red").save(out, "ICNS", sizes=[(16, 16)])
    return out.getvalue()


def written(rng: random.Random, forms: Sequence[str] = tuple(PLAIN)) -> tuple[str, bytes]:
    """A whole file, of one frame or two, with metadata of all sorts."""
    form = rng.choice(forms)
    if form == "ICNS":
        return form, icns()
    image = noise(rng, rng.choice(PLAIN[form]))
    options: dict = {}
    if form in ("JPEG", "PNG", "WEBP", "AVIF", "MPO") and rng.random() < 0.5:
        options["exif"] = exif(rng)
    if form == "JPEG":
        options |= {"quality": rng.choice([5, 75, 95]), "progressive": rng.random() < 0.5}
    if form == "PNG" and image.mode in ("P", "L", "1", "RGB") and rng.random() < 0.4:
        options["transparency"] = {"P": b"\0\x80", "RGB": (0, 0, 0)}.get(image.mode, 0)
    if form == "TIFF" and image.mode in ("RGB", "L") and rng.random() < 0.6:
        options["compression"] = rng.choice(["tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
    if form in ("GIF", "WEBP", "PNG", "TIFF") and image.mode == "RGB" and rng.random() < 0.3:
        options |= {"save_all": True, "append_images": [noise(rng, "RGB").resize(image.size)]}
    out = io.BytesIO()
    try:
        image.save(out, form, **options)
    except (OSError, ValueError, KeyError, TypeError, SystemError, struct.error):  # not every mode at every size
        return written(rng, forms)
    return form, out.getvalue()


def with_chunk(rng: random.Random, content: bytes) -> bytes:
    """Something that is not pixels behind a PNG's header."""
    text = b"a" * rng.choice([0, 10, (1 << 20) + 1])
    key = rng.choice([b"Comment", b"XML:com.adobe.xmp", b"Raw profile type exif", b"", b"\xff" * 90])
    kind, data = rng.choice(
        [
            (b"tEXt", key + b"\0" + text),
            (b"zTXt", key + b"\0\0" + zlib.compress(text)),
            (b"zTXt", key + b"\0\0" + b"no zlib"),
            (b"iTXt", key + b"\0\1\0\0\0" + zlib.compress(text)),
            (b"iTXt", key + b'\0\0\0en\0\0tiff:Orientation="6"'),
            (b"iCCP", b"icc\0\0" + zlib.compress(text)),
            (b"eXIf", exif(rng)[6:]),
            (b"tRNS", rng.randbytes(rng.randrange(9))),
            (b"acTL", rng.randbytes(8)),
            (b"fcTL", rng.randbytes(26)),
            (b"pHYs", rng.randbytes(rng.randrange(12))),
            (b"abcd", rng.randbytes(4)),
        ]
    )
    return content[:33] + chunk(kind, data, rng.random() < 0.8) + content[33:]


def flipped(rng: random.Random, content: bytes) -> bytes:
    hurt = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        # Half of them in the head, where sizes, modes and tables are.
        at = rng.randrange(min(len(hurt), 64) if rng.random() < 0.5 else len(hurt))
        hurt[at] = rng.choice([0, 255, rng.randrange(256)])
    return bytes(hurt)


def inserted(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.randrange(40)) + content[at:]


HURTS: list[Callable[[random.Random, bytes], bytes]] = [
    lambda rng, content: content,
    lambda rng, content: content[: rng.randrange(len(content) + 1)],
    lambda rng, content: content[: -rng.randrange(1, 20)],
    flipped,
    flipped,
    lambda rng, content: (
        content[: (at := rng.randrange(len(content)))] + rng.randbytes(rng.randrange(40)) + content[at:]
    ),
    lambda rng, content: content[: (at := rng.randrange(len(content)))] + content[at + rng.randrange(1, 40) :],
    lambda rng, content: content + rng.randbytes(rng.randrange(2000)),
    lambda rng, content: rng.randbytes(rng.randrange(20)) + content,
]


def case(seed: int, forms: Sequence[str] = tuple(PLAIN)) -> tuple[str, bytes]:
    """A file of one of `forms`, most often hurt."""
    rng = random.Random(seed)
    form, content = written(rng, forms)
    if form == "PNG" and rng.random() < 0.6:
        content = with_chunk(rng, content)
    return form, rng.choice(HURTS)(rng, content)


def size(content: bytes) -> int:
    """Pixels that the header claims; 0 if no decoder accepts it."""
    try:
        with opened(content) as image:
            return image.width * image.height
    except PictureError:
        return 0


@contextmanager
def memory_within(bound: int) -> Iterator[None]:
    """How much the process may grow for a moment. Measured on Linux only."""

    def status(name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = status("VmRSS")
    except (OSError, TypeError):
        yield
        return
    yield
    assert status("VmHWM") - before <= bound


def test_check_says_of_every_picture_what_training_does(capfd: pytest.CaptureFixture[str]) -> None:
    read: Counter[str] = Counter()
    for seed in range(cases(2_500)):
        form, content = case(seed)
        with memory_within(BYTES * size(content) + 4 * len(content) + (32 << 20)):
            found = examine(content, "p")
            image = problem = None
            try:
                image = decode(content, "p")
            except BrokenRecord as e:
                problem = e
        kinds = [kind for kind, _ in found]
        assert set(kinds) <= KINDS | NOTED and len(kinds) == len(set(kinds)), (seed, form)
        assert all("\n" not in why and len(why) < 400 for _, why in found), (seed, found)
        if problem:
            assert (problem.kind, problem.problem) in found, (seed, form, str(problem), found)
            assert "\n" not in str(problem), seed
            read[problem.kind] += 1
        else:
            assert not KINDS & set(kinds), (seed, form, found)
            assert image.mode == "RGB" and not image.info and min(image.size) > 0, (seed, form)
            read["read"] += 1
    assert capfd.readouterr() == ("", "")  # neither Pillow's warnings nor those of a C library
    print(dict(read))  # `pytest -s`
    assert min(read["read"], read["corrupt-image"], read["unsupported-image"]) > 0.05 * read.total()
