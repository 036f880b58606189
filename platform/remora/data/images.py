"""From a picture to the pixels that an encoder reads."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from remora.catalog import Vision
from remora.data.padding import padded

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
    """RGB picture -> the S x S of it that an encoder reads; fitted once more it stays as it is, unless the encoder's
    publisher cuts a rim off (`resize`).

    S is the encoder's image_size, or the largest of its scales. `square` is what the encoder's publisher does, to the
    pixel: transformers' CLIPImageProcessor or BitImageProcessor (`fit: crop`), SiglipImageProcessor or
    ViTImageProcessor (`stretch`), or torchvision's transforms (`processor`); docs/recipes.md lists what differs before
    a picture is RGB. `pad` puts the whole picture in the middle of a square of the mean colour, rounded down, first, as
    LLaVA-1.5 does.
    """
    side, resample = encoder.input_size, FILTERS[encoder.resample or "bicubic"]
    if aspect == "pad":
        red, green, blue = (int(m * 255) for m in encoder.mean)
        image = padded(image, encoder.shorter_side, (red, green, blue), resample)  # what is square now stays, or is cut
    return _cropped(image, encoder) if encoder.fit == "crop" else image.resize((side, side), resample)


def _cropped(image: Image.Image, encoder: Vision) -> Image.Image:
    """The shorter side resized, and the middle cut out.

    Pictures more than LONG times longer than wide differ from the publisher's by one of 256 shades here and there.
    """
    side, shorter, resample = encoder.input_size, encoder.shorter_side, FILTERS[encoder.resample or "bicubic"]
    short, long = min(image.size), max(image.size)
    stretched = int(shorter * long / short)
    width, height = (shorter, stretched) if image.width <= image.height else (stretched, shorter)
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
