"""Untrusted pictures: what is accepted, what is refused, and that refusing is cheap."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import pytest
from PIL import Image, ImageFile

from remora.serving.args import Limits
from remora.serving.images import decode
from remora.serving.openai_api import Refusal
from support.serving_fake import as_url, data_url

LIMITS = Limits()
RED, WHITE = (255, 0, 0), (255, 255, 255)


def refused(urls: list[str], limits: Limits = LIMITS) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decode(urls, limits)
    assert caught.value.status == 400
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return caught.value


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims width x height."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 10)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_each_format_is_read_as_rgb(kind: str) -> None:
    (picture,) = decode([data_url(Image.new("RGB", (30, 20), RED), kind)], LIMITS)
    assert (picture.mode, picture.size) == ("RGB", (30, 20))
    assert all(abs(a - b) < 4 for a, b in zip(picture.getpixel((3, 3)), RED, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(kind: str) -> None:
    error = refused([data_url(Image.new("RGB", (30, 20)), kind)])
    assert str(error) == "image 1: not a PNG, JPEG, WebP or GIF picture"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_white(mode: str) -> None:
    picture = Image.new(mode, (8, 8), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    assert decode([data_url(picture)], LIMITS)[0].getpixel((0, 0)) == WHITE


def test_palette_transparency_is_white() -> None:
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    assert decode([data_url(picture, transparency=0)], LIMITS)[0].getpixel((0, 0)) == WHITE


def test_exif_orientation_is_applied() -> None:
    picture = Image.new("RGB", (30, 20), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert decode([data_url(picture, "JPEG", exif=exif)], LIMITS)[0].size == (20, 30)


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    url = data_url(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode([url], LIMITS)[0].getpixel((0, 0)) == RED


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (9_000, 9_000), (12_000, 12_000)])
def test_a_bomb_is_refused_by_its_header(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("pixels were decoded"))
    assert refused([as_url(png_claiming(width, height))]).code in ("image_too_large", "image_size")


def test_pixels_are_counted_over_the_request() -> None:
    limits = Limits(max_pixels=1000)
    url = data_url(Image.new("RGB", (30, 20)))
    assert len(decode([url], limits)) == 1
    assert str(refused([url, url], limits)) == "a request may have 0.001 million pixels of images; this one has 0.0012"


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 50), (9_999, 2), (11_000, 3_000)])
def test_shapes_that_break_processors_are_refused(width: int, height: int) -> None:
    assert refused([as_url(png_claiming(width, height))]).code == "image_size"


def test_a_truncated_picture_is_refused() -> None:
    out = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(out, "PNG")
    error = refused([as_url(out.getvalue()[:-900])])
    assert error.code == "invalid_image" and "cannot be decoded" in str(error)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1/a.png", "image_url_scheme"),
        ("https://example.com/a.png", "image_url_scheme"),
        ("file:///etc/passwd", "image_url_scheme"),
        ("/etc/passwd", "image_url_scheme"),
        ("", "image_url_scheme"),
        ("data:image/png,abcd", "invalid_data_url"),
        ("data:text/html;base64,abcd", "invalid_data_url"),
        ("data:image/png;base64", "invalid_data_url"),
        ("data:image/png;base64,", "invalid_image"),
        ("data:image/png;base64,ab*d", "invalid_base64"),
        ("data:image/png;base64,abcde", "invalid_base64"),
        ("data:image/png;base64,abc", "invalid_image"),
        ("data:image/png;base64,ab\ncd", "invalid_image"),
        ("data:image/png;base64,é", "invalid_base64"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "invalid_image"),
    ],
)
def test_what_is_no_picture_is_refused(url: str, code: str) -> None:
    assert refused([url]).code == code


@pytest.mark.parametrize(
    "form", ["lines", "url-safe", "no padding", "percent", "type", "options", "spaces", "capitals"]
)
def test_base64_is_read_in_every_form_that_clients_send(form: str) -> None:
    """MIME's encoders wrap lines, JWT's take - and _ without padding, URL's escape."""
    out = io.BytesIO()
    Image.effect_noise((40, 30), 90).convert("RGB").save(out, "PNG")
    out.write(bytes(1 + -len(out.getvalue()) % 3))  # behind the picture's end: padding is needed
    text = base64.b64encode(out.getvalue()).decode()
    assert "+" in text and "/" in text and text.endswith("=")
    url = {
        "lines": "data:image/png;base64," + "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
        "url-safe": "data:image/png;base64," + text.replace("+", "-").replace("/", "_"),
        "no padding": "data:image/png;base64," + text.rstrip("="),
        "percent": "data:image/png;base64," + text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        "type": "data:application/octet-stream;base64," + text,
        "options": "data:image/png;name=a.png;base64," + text,
        "spaces": "  data:image/png;base64, " + text + "\n",
        "capitals": "DATA:IMAGE/PNG;BASE64," + text,
    }[form]
    (picture,) = decode([url], LIMITS)
    assert picture.tobytes() == Image.open(out).convert("RGB").tobytes()


def test_the_refusal_names_the_picture() -> None:
    good = data_url(Image.new("RGB", (4, 4)))
    assert str(refused([good, "file:///etc/passwd"])) == (
        "image 2: only data: URLs are read (data:image/png;base64,...); found 'file:///etc/passwd'"
    )


def test_bytes_and_number_are_limited() -> None:
    url = data_url(Image.effect_noise((64, 64), 90))
    assert refused([url], Limits(max_image_bytes=1024)).code == "image_too_large"
    assert refused([url] * 9).code == "too_many_images"
    assert len(decode([url] * 8, LIMITS)) == 8
