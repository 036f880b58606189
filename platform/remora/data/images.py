"""Pictures: from a file to the pixels that an encoder reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from remora.catalog import Vision
from remora.errors import DataError

UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
"""What Pillow's decoders raise for a broken file."""


def to_rgb(image: Image.Image) -> Image.Image:
    """First frame, upright (EXIF), transparency on white, as RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion clips to white
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def open_image(path: Path) -> Image.Image:
    """Read a picture file as RGB.

    Raises:
        DataError: the file is missing, or is no picture that can be decoded.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except FileNotFoundError:
        raise DataError(f"missing image: {path}; put it there or remove its record") from None
    except UNREADABLE as e:
        raise DataError(f"unreadable image: {path}: {e}; replace the file or remove its record") from None


def preprocess(image: Image.Image, encoder: Vision) -> Tensor:
    """RGB picture -> pixels [3, image_size, image_size], normalised with the encoder's mean and deviation.

    `square` resizes with bicubic interpolation and does not keep the aspect ratio.
    """
    side = encoder.image_size
    pixels: np.ndarray = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 255.0
    pixels = (pixels - np.asarray(encoder.mean, np.float32)) / np.asarray(encoder.std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
