"""Pictures, and files that claim to be some: by attack and by name, as data: URLs."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from functools import cache

from PIL import Image, PngImagePlugin

from remora.serving.args import Limits
from remora.serving.attack.judge import Wanted

Pictures = dict[str, tuple[Wanted, Callable[[], str]]]
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def as_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@cache
def saved(kind: str, width: int = 24, height: int = 16) -> bytes:
    """A small RGB picture of noise."""
    out = io.BytesIO()
    Image.effect_noise((width, height), 90).convert("RGB").save(out, kind)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zeros(size: int) -> bytes:
    """`size` zeros, compressed."""
    packed = zlib.compressobj(9)
    return b"".join([packed.compress(bytes(2**20)) for _ in range(size >> 20)] + [packed.flush()])


@cache
def with_chunk(kind: bytes, size: int) -> bytes:
    """A PNG with a chunk that unpacks to `size` bytes."""
    png = saved("PNG")
    return png[:33] + chunk(kind, b"a\0\0" + zeros(size)) + png[33:]


def texts_in_png() -> bytes:
    made, out = PngImagePlugin.PngInfo(), io.BytesIO()
    for i in range(5000):
        made.add_text(f"k{i}", "v" * 20)
    Image.effect_noise((24, 16), 90).convert("RGB").save(out, "PNG", pnginfo=made)
    return out.getvalue()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of one bit a pixel whose header says this size; `data` are its compressed rows."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", data or zlib.compress(b"\0")) + chunk(b"IEND", b"")


def black(side: int) -> bytes:
    """A whole PNG of side x side black pixels: 36 million of them are 10 KB."""
    return png(side, side, zlib.compress(bytes(side * (1 + -(-side // 8))), 9))


def resized_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header says another size than it has."""
    data = bytearray(saved("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def resized_gif(width: int, height: int) -> bytes:
    data = saved("GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


@cache
def frames(kind: str) -> bytes:
    more, out = [Image.new("RGB", (24, 16), (i % 256, 0, 0)) for i in range(300)], io.BytesIO()
    Image.effect_noise((24, 16), 90).convert("RGB").save(out, kind, save_all=True, append_images=more)
    return out.getvalue()


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>"
SVG_ENTITY = b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><svg/>"
LAUGHS = (
    b"<?xml version='1.0'?><!DOCTYPE l [<!ENTITY a 'ha'>"
    + b"".join(b"<!ENTITY %c '%s'>" % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
    + b"]><svg>&j;</svg>"
)

BOMBS: Pictures = {
    "a text of 200 MB, which nobody unpacks": ("answered", lambda: as_url(with_chunk(b"zTXt", 200 * 2**20))),
    "a colour profile of 50 MB": ("either", lambda: as_url(with_chunk(b"iCCP", 50 * 2**20))),
    "many texts in a png": ("answered", lambda: as_url(texts_in_png())),
    "400 million pixels in 50 KB": ("refused", lambda: as_url(black(20_000))),
    "a billion laughs": ("refused", lambda: as_url(LAUGHS, "svg+xml")),
}
SIZES: Pictures = {
    "a png of 100,000 x 100,000": ("refused", lambda: as_url(png(100_000, 100_000))),
    "a png of 2^31 - 1 squared": ("refused", lambda: as_url(png(2**31 - 1, 2**31 - 1))),
    "a png of 0 x 0": ("refused", lambda: as_url(png(0, 0))),
    "a jpeg of 65,535 x 65,535": ("refused", lambda: as_url(resized_jpeg(65_535, 65_535), "jpeg")),
    "a gif of 65,535 x 65,535": ("refused", lambda: as_url(resized_gif(65_535, 65_535), "gif")),
    "1 x 1": ("refused", lambda: as_url(saved("PNG", 1, 1))),
    "1 x 9,000": ("refused", lambda: as_url(saved("PNG", 1, 9_000))),
    "2 x 9,000": ("refused", lambda: as_url(saved("PNG", 2, 9_000))),
    "2 x 2": ("answered", lambda: as_url(saved("PNG", 2, 2))),
}
TORN: Pictures = {
    "half a png": ("refused", lambda: as_url(saved("PNG")[:-400])),
    "half a jpeg's header": ("refused", lambda: as_url(saved("JPEG")[:30])),
    "half a gif": ("refused", lambda: as_url(saved("GIF")[:60])),
    "half a webp": ("refused", lambda: as_url(saved("WEBP")[:60])),
    "a png's magic alone": ("refused", lambda: as_url(SIGNATURE)),
    "a png without rows": ("refused", lambda: as_url(png(24, 16))),
    "nothing": ("refused", lambda: as_url(b"")),
    "one byte": ("refused", lambda: as_url(b"\xff")),
    "zeros": ("refused", lambda: as_url(bytes(100_000))),
}
ANIMATED: Pictures = {
    "an animated gif": ("answered", lambda: as_url(frames("GIF"), "gif")),
    "an animated webp": ("answered", lambda: as_url(frames("WEBP"), "webp")),
    "an animated png": ("answered", lambda: as_url(frames("PNG"))),
}
MIME: Pictures = {
    "a png called jpeg": ("answered", lambda: as_url(saved("PNG"), "jpeg")),
    "a jpeg called svg": ("answered", lambda: as_url(saved("JPEG"), "svg+xml")),
    "html": ("refused", lambda: "data:text/html;base64,PGh0bWw+"),
    "pdf": ("refused", lambda: as_url(b"%PDF-1.7\n" + bytes(500))),
    "postscript": ("refused", lambda: as_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")),
    "mp4": ("refused", lambda: as_url(b"\0\0\0\x20ftypisom" + bytes(500))),
    "jpeg 2000": ("refused", lambda: as_url(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(500))),
    "tiff": ("refused", lambda: as_url(saved("TIFF"))),
}
VECTORS: Pictures = {
    "svg": ("refused", lambda: as_url(SVG, "svg+xml")),
    "svg called png": ("refused", lambda: as_url(SVG_ENTITY)),
}
POLYGLOTS: Pictures = {
    "a page behind a png": ("answered", lambda: as_url(saved("PNG") + b"<script>alert(1)</script>")),
    "an archive behind a jpeg": ("answered", lambda: as_url(saved("JPEG") + b"PK\x03\x04" + bytes(100))),
    "a gif that is a script": ("refused", lambda: as_url(b"GIF89a=1;alert(1);//", "gif")),
    "a pdf behind a gif's magic": ("refused", lambda: as_url(b"GIF89a%PDF-1.7\n" + bytes(500), "gif")),
}
BASE64: Pictures = {
    "a data url of data urls": ("refused", lambda: as_url(as_url(saved("PNG")).encode())),
    "many options": ("refused", lambda: "data:image/png" + ";a=b" * 50_000 + ",AAAA"),
    "base64 of other letters": ("refused", lambda: "data:image/png;base64," + "ＡＡＡＡ" * 100),
    "percent signs": ("refused", lambda: "data:image/png;base64," + "%41" * 300_000),
    "padding alone": ("refused", lambda: "data:image/png;base64," + "=" * 1_000_000),
}


def too_many_bytes() -> str:
    """More than the endpoint's default allows for one picture, in a body that it allows."""
    return as_url(bytes(Limits().max_image_bytes + 1))
