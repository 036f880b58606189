"""From a picture to the pixels that an encoder reads."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from remora.catalog import Vision
from remora.reading.padding import padded

Aspect = Literal["square", "pad"]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
LONG = 64
"""Long over short side from which on a crop is resampled alone, not with all that it cuts away: a picture of one row of
100,000 pixels would grow to 30 GB on its way to 336 rows."""


def preprocess(image: Image.Image, encoder: Vision, aspect: Aspect = "square") -> Tensor:
    """RGB picture -> pixels [3, S, S], fp32, normalised with the encoder's mean and deviation. S: see `fitted`."""
    # A byte has 256 values, so each channel's are worked out once; the order and precision are the publishers'.
    # (Torchvision's bytes / 255 in single precision are the same 256 numbers as transformers' bytes * (1 / 255).)
    shades = (np.arange(256) * (1 / 255)).astype(np.float32)
    bytes_ = np.asarray(fitted(image, encoder, aspect))
    channels = [
        ((shades - np.float32(mean)) / np.float32(std))[bytes_[..., c]]
        for c, (mean, std) in enumerate(zip(encoder.mean, encoder.std, strict=True))
    ]
    return torch.from_numpy(np.stack(channels))


def fitted(image: Image.Image, encoder: Vision, aspect: Aspect = "square") -> Image.Image:
    """RGB picture -> the S x S of it that an encoder reads. To keep a picture small and fit it later, see `shrunk`.

    S is the encoder's image_size, or the largest of its scales. `square` is what the encoder's publisher does, to the
    pixel: transformers' CLIPImageProcessor or BitImageProcessor (`fit: crop`), SiglipImageProcessor or
    ViTImageProcessor (`stretch`), or torchvision's transforms (`processor`); docs/recipes.md lists what differs before
    a picture is RGB. `pad` puts the whole picture in the middle of a square of the mean colour, rounded down, first, as
    LLaVA-1.5 does.
    """
    if aspect == "pad":
        image = _on_square(image, encoder)  # of the right size: what follows leaves it as it is, or cuts its rim
    if encoder.fit == "crop":
        return _cropped(image, encoder)
    return image.resize((encoder.input_size, encoder.input_size), _filter(encoder))


def shrunk(image: Image.Image, encoder: Vision, aspect: Aspect = "square") -> Image.Image:
    """What may be kept of an RGB picture in its place: `fitted` makes the same of both, and shrunk again it stays.

    That is what `fitted` makes of it, or where an encoder's publisher cuts a rim off (`resize`) the picture before the
    cut; very long ones are kept as they are there.
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
    """Width and height once the shorter side is resized."""
    shorter = encoder.shorter_side
    stretched = int(shorter * max(image.size) / min(image.size))
    return (shorter, stretched) if image.width <= image.height else (stretched, shorter)


def _cropped(image: Image.Image, encoder: Vision) -> Image.Image:
    """The shorter side resized, and the middle cut out.

    Pictures more than LONG times longer than wide differ from the publisher's by one of 256 shades here and there.
    """
    side, resample = encoder.input_size, _filter(encoder)
    short, long = min(image.size), max(image.size)
    width, height = _before_crop(image, encoder)
    left, top = _margin(width - side, encoder), _margin(height - side, encoder)
    if long <= LONG * short:
        return image.resize((width, height), resample).crop((left, top, left + side, top + side))
    x, y = image.width / width, image.height / height  # pixels of the picture a pixel of the result
    # Rows first, then columns, as Pillow does for the whole: overshoots are cut off to 0 and 255 in between.
    image = image.resize((side, image.height), resample, (left * x, 0, (left + side) * x, image.height))
    return image.resize((side, side), resample, (0, top * y, side, (top + side) * y))


def _margin(rest: int, encoder: Vision) -> int:
    """Pixels that a crop leaves out before it, half of `rest`: transformers rounds down, torchvision to even."""
    return round(rest / 2) if encoder.processor else rest // 2
