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
BICUBIC = Image.Resampling.BICUBIC
LONG = 64
"""Long over short side from which on a crop is resampled alone, not with all that it cuts away: a picture of one row of
100,000 pixels would grow to 30 GB on its way to 336 rows."""


def preprocess(image: Image.Image, encoder: Vision, aspect: Aspect = "square") -> Tensor:
    """RGB picture -> pixels [3, S, S], fp32, normalised with the encoder's mean and deviation. S: see `fitted`."""
    # A byte has 256 values, so each channel's are worked out once; the order and precision are the publishers'.
    shades = (np.arange(256) * (1 / 255)).astype(np.float32)
    bytes_ = np.asarray(fitted(image, encoder, aspect))
    channels = [
        ((shades - np.float32(mean)) / np.float32(std))[bytes_[..., c]]
        for c, (mean, std) in enumerate(zip(encoder.mean, encoder.std, strict=True))
    ]
    return torch.from_numpy(np.stack(channels))


def fitted(image: Image.Image, encoder: Vision, aspect: Aspect = "square") -> Image.Image:
    """RGB picture -> the S x S of it that an encoder reads; fitted once more it stays as it is.

    S is the encoder's image_size, or the largest of its scales. `square` is what the encoder's publisher does (`fit`):
    transformers' CLIPImageProcessor (`crop`) or SiglipImageProcessor (`stretch`), to the pixel. `pad` puts the whole
    picture in the middle of a square of the mean colour, rounded down, first, as LLaVA-1.5 does.
    """
    side = encoder.input_size
    if aspect == "pad":
        red, green, blue = (int(m * 255) for m in encoder.mean)
        return padded(image, side, (red, green, blue), BICUBIC)
    return _cropped(image, side) if encoder.fit == "crop" else image.resize((side, side), BICUBIC)


def _cropped(image: Image.Image, side: int) -> Image.Image:
    """The shorter side resized to `side`, and the middle cut out.

    Pictures more than LONG times longer than wide differ from the publisher's by one of 256 shades here and there.
    """
    short, long = min(image.size), max(image.size)
    stretched = int(side * long / short)
    width, height = (side, stretched) if image.width <= image.height else (stretched, side)
    left, top = (width - side) // 2, (height - side) // 2
    if long <= LONG * short:
        return image.resize((width, height), BICUBIC).crop((left, top, left + side, top + side))
    x, y = image.width / width, image.height / height  # pixels of the picture a pixel of the result
    # Rows first, then columns, as Pillow does for the whole: overshoots are cut off to 0 and 255 in between.
    image = image.resize((side, image.height), BICUBIC, (left * x, 0, (left + side) * x, image.height))
    return image.resize((side, side), BICUBIC, (0, top * y, side, (top + side) * y))
