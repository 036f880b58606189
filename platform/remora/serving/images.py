"""Untrusted pictures: data: URLs and fetched files, checked by their header before a pixel is decoded.

Nothing is fetched here and no path is opened, so a request cannot make the server read local files; fetch.py has what
the settings allow of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from remora.data.pixels import UNKNOWN, PictureError, opened, rgb
from remora.serving.args import Limits
from remora.serving.datauri import payload
from remora.serving.openai_api import Refusal

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_KNOWN = "PNG, JPEG, WebP or GIF"


def decode(
    urls: Sequence[str | bytes], limits: Limits, shrink: Callable[[Image.Image], Image.Image] = lambda picture: picture
) -> list[Image.Image]:
    """The pictures in `urls`, read as in training (docs/data.md), in this process; the endpoint has others for that
    (picture_pool.py).

    Raises:
        Refusal: 400, one line that names the picture (from 1), the limit and the value.
    """
    return list(decode_files(files_of(urls, limits), limits, shrink))


def files_of(urls: Sequence[str | bytes], limits: Limits) -> list[bytes]:
    """The picture files in `urls`.

    Raises:
        Refusal: 400, they are too many or too long, or no data: URLs.
    """
    if len(urls) > limits.max_images:
        raise _refuse(f"a request may have {limits.max_images} images; this one has {len(urls)}", "too_many_images")
    return [payload(url, f"image {i}", limits.max_image_bytes) for i, url in enumerate(urls, 1)]


def decode_files(
    files: Sequence[bytes],
    limits: Limits,
    shrink: Callable[[Image.Image], Image.Image],
    begun: Callable[[int], None] = lambda number: None,
) -> Iterator[Image.Image]:
    """The pictures in `files`, once all headers are checked. Each is shrunk to the encoder's size before the next is
    decoded, so that a queued request holds little memory. `begun` is called with the number of a picture, from 1,
    before its header and before its pixels are read.

    Raises:
        Refusal: as `decode`.
    """
    sizes = []
    for i, data in enumerate(files, 1):
        begun(i)
        sizes.append(_measured(data, f"image {i}", limits))
    if sum(sizes) > limits.max_pixels:
        raise _refuse(
            f"a request may have {limits.max_pixels / 1e6:g} million pixels of images; "
            f"this one has {sum(sizes) / 1e6:g}",
            "image_too_large",
        )
    for i, data in enumerate(files, 1):
        begun(i)
        try:
            picture = shrink(rgb(data, FORMATS))
        except PictureError as e:
            raise _broken(f"image {i}", e) from None
        except MemoryError:
            raise _needs_memory(f"image {i}") from None
        yield picture


def _refuse(message: str, code: str) -> Refusal:
    return Refusal(message, code=code, param="messages")


def _measured(data: bytes, name: str, limits: Limits) -> int:
    """A picture's pixel count, from its header."""
    try:
        with opened(data, FORMATS) as picture:
            width, height = picture.size
    except PictureError as e:
        raise _broken(name, e) from None
    short, long, shown = min(width, height), max(width, height), f"{width} x {height} pixels"
    if short < limits.min_side or long > limits.max_side:
        raise _refuse(
            f"{name}: {shown}; each side must be between {limits.min_side} and {limits.max_side}", "image_size"
        )
    if long > limits.max_aspect * short:
        raise _refuse(f"{name}: {shown}; longer than {limits.max_aspect} times its short side", "image_size")
    return width * height


def _needs_memory(name: str) -> Refusal:
    return _refuse(f"{name}: reading it takes more memory than there is for one; send a smaller one", "image_too_large")


def _broken(name: str, refused: PictureError) -> Refusal:
    if isinstance(refused.__cause__, MemoryError):
        return _needs_memory(name)
    if refused.kind == "too-large-image":
        return _refuse(f"{name}: it has too many pixels; {refused.way}", "image_too_large")
    if refused.why == UNKNOWN:
        return _refuse(f"{name}: not a {_KNOWN} picture", "invalid_image")
    # What is corrupt is described by Pillow, and its texts have shown addresses of memory and paths.
    what = "it is damaged" if refused.kind == "corrupt-image" else refused.why
    way = refused.way or f"send a whole {_KNOWN} picture"
    return _refuse(f"{name}: cannot be decoded: {what}; {way}", "invalid_image")
