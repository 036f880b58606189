"""Pictures from strangers: data: URLs only, measured by their header before a pixel is decoded.

No URL is fetched and no path is opened, so a request cannot make the server read somebody else's files or network.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

from remora.data.pictures import to_rgb
from remora.serving.args import Limits
from remora.serving.protocol import Refusal

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_KNOWN = "PNG, JPEG, WebP or GIF"


def decode(urls: Sequence[str], limits: Limits) -> list[Image.Image]:
    """The pictures in `urls`, in RGB: upright by their EXIF, transparency on white, of an animation the first frame.

    Raises:
        Refusal: 400, one line that names the picture (from 1), the limit and the value.
    """
    if len(urls) > limits.max_images:
        raise _refuse(f"a request may have {limits.max_images} images; this one has {len(urls)}", "too_many_images")
    files = [_payload(url, f"image {i}", limits) for i, url in enumerate(urls, 1)]
    opened = [_open(data, f"image {i}", limits) for i, data in enumerate(files, 1)]
    pixels = sum(picture.width * picture.height for picture in opened)
    if pixels > limits.max_pixels:
        raise _refuse(
            f"a request may have {limits.max_pixels / 1e6:g} million pixels of images; this one has {pixels / 1e6:g}",
            "image_too_large",
        )
    return [_rgb(picture, f"image {i}") for i, picture in enumerate(opened, 1)]


def _refuse(message: str, code: str) -> Refusal:
    return Refusal(message, code=code, param="messages")


def _payload(url: str, name: str, limits: Limits) -> bytes:
    head, comma, text = url.partition(",")
    if not head.lower().startswith("data:"):
        raise _refuse(
            f"{name}: only data: URLs are read (data:image/png;base64,...); found {url[:40]!r}", "image_url_scheme"
        )
    if not comma or not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
        raise _refuse(f"{name}: expected data:image/...;base64,...; found {head[:40]!r}", "invalid_data_url")
    if len(text) * 3 // 4 > limits.max_image_bytes + 2:  # + 2: padding
        raise _refuse(
            f"{name}: an image may have {limits.max_image_bytes} bytes; this one has about {len(text) * 3 // 4}",
            "image_too_large",
        )
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as e:
        raise _refuse(f"{name}: not valid base64: {e}", "invalid_base64") from None


def _open(data: bytes, name: str, limits: Limits) -> Image.Image:
    """Read the header alone."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _refuse(
            f"{name}: more pixels than the limit of {limits.max_pixels / 1e6:g} million", "image_too_large"
        ) from None
    except Image.UnidentifiedImageError:
        raise _refuse(f"{name}: not a {_KNOWN} picture", "invalid_image") from None
    except Exception as e:
        raise _broken(name, e) from e  # hostile headers make Pillow's parsers raise anything
    short, long = sorted(picture.size)
    shown = f"{picture.width} x {picture.height} pixels"
    if short < limits.min_side or long > limits.max_side:
        raise _refuse(
            f"{name}: {shown}; each side must be between {limits.min_side} and {limits.max_side}", "image_size"
        )
    if long > limits.max_aspect * short:
        raise _refuse(f"{name}: {shown}; longer than {limits.max_aspect} times its short side", "image_size")
    return picture


def _rgb(picture: Image.Image, name: str) -> Image.Image:
    try:
        return to_rgb(picture)
    except Exception as e:
        raise _broken(name, e) from e  # as above, and truncated or torn pixel data


def _broken(name: str, error: Exception) -> Refusal:
    return _refuse(f"{name}: cannot be decoded: {str(error)[:120] or type(error).__name__}", "invalid_image")
