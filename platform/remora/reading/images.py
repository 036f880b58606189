"""Preprocess pictures: from RGB to an encoder's pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from remora.catalog import Vision
from remora.reading.padding import padded

if TYPE_CHECKING:
    from torch import Tensor

Aspect = Literal["square", "pad"]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
LONG = 64
"""Above this aspect ratio (long over short side) only the crop is resampled, not the whole picture: one row of 100,000
pixels resized to 336 rows would take 30 GB."""


def preprocess(image: Image.Image, encoder: Vision, aspect: Aspect = "square") -> Tensor:
    """RGB picture -> pixels [3, S, S], fp32, normalised by the encoder's mean and deviation. S: see `fitted`."""
    import torch  # here: the endpoint's ingress shrinks pictures without it

    # A byte has 256 values, so a table per channel is enough. Order and precision are the publishers'.
    # (Torchvision's bytes / 255 in single precision are the same 256 numbers as transformers' bytes * (1 / 255).)
    shades = (np.arange(256) * (1 / 255)).astype(np.float32)
    bytes_ = np.asarray(fitted(image, encoder, aspect))
    channels = [
        ((shades - np.float32(mean)) / np.float32(std))[bytes_[..., c]]
        for c, (mean, std) in enumerate(zip(encoder.mean, encoder.std, strict=True))
    ]
    return torch.from_numpy(np.stack(channels))


def fitted(image: Image.Image, encoder: Vision, aspect: Aspect = "square") -> Image.Image:
    """RGB picture -> the S x S picture that an encoder gets. To store a smaller picture and fit it later, see `shrunk`.

    S is the encoder's image_size, or the largest of its scales. `square` equals the publisher's preprocessing to the
    pixel: transformers' CLIPImageProcessor or BitImageProcessor (`fit: crop`), SiglipImageProcessor or
    ViTImageProcessor (`stretch`), or torchvision's transforms (`processor`); docs/recipes.md lists differences in the
    conversion to RGB. `pad` first centres the picture on a square of the mean colour (rounded down), as LLaVA-1.5 does.
    """
    if aspect == "pad":
        image = _on_square(image, encoder)  # it has the right size: the code below leaves it, or only crops it
    if encoder.fit == "crop":
        return _cropped(image, encoder)
    return image.resize((encoder.input_size, encoder.input_size), _filter(encoder))


def shrunk(image: Image.Image, encoder: Vision, aspect: Aspect = "square") -> Image.Image:
    """A smaller picture to store instead of an RGB picture: `fitted` gives the same result for both. Idempotent.

    It is the result of `fitted`, or, if the encoder's publisher crops after resizing (`resize`), the picture before the
    crop; very long pictures are then kept as they are.
    """
    if encoder.shorter_side == encoder.input_size:
        return fitted(image, encoder, aspect)
    if aspect == "pad":
        return _on_square(image, encoder)
    short, long = min(image.size), max(image.size)
    return image if long > LONG * short else image.resize(_before_crop(image, encoder), _filter(encoder))


def _filter(encoder: Vision) -> Image.Resampling:
    return FILTERS[encoder.resample or "bicubic"]


def _on_square(image: Image.Image, encoder: Vision) -> Image.Image:
    red, green, blue = (int(m * 255) for m in encoder.mean)
    return padded(image, encoder.shorter_side, (red, green, blue), _filter(encoder))


def _before_crop(image: Image.Image, encoder: Vision) -> tuple[int, int]:
    """Width and height after the shorter side is resized."""
    shorter = encoder.shorter_side
    stretched = int(shorter * max(image.size) / min(image.size))
    return (shorter, stretched) if image.width <= image.height else (stretched, shorter)


def _cropped(image: Image.Image, encoder: Vision) -> Image.Image:
    """Resize the shorter side and crop the centre.

    Pictures with an aspect ratio above LONG differ from the publisher's by 1 of 256 in some pixels.
    """
    side, resample = encoder.input_size, _filter(encoder)
    short, long = min(image.size), max(image.size)
    width, height = _before_crop(image, encoder)
    left, top = _margin(width - side, encoder), _margin(height - side, encoder)
    if long <= LONG * short:
        return image.resize((width, height), resample).crop((left, top, left + side, top + side))
    x, y = image.width / width, image.height / height  # pixels of the picture per pixel of the result
    # Rows first, then columns, as Pillow does: it clips overshoots to 0 and 255 in between.
    image = image.resize((side, image.height), resample, (left * x, 0, (left + side) * x, image.height))
    return image.resize((side, side), resample, (0, top * y, side, (top + side) * y))


def _margin(rest: int, encoder: Vision) -> int:
    """Offset of a centre crop, half of `rest`: transformers rounds down, torchvision to even."""
    return round(rest / 2) if encoder.processor else rest // 2
