"""Centre a picture on a square and resize it, without building the square.

LLaVA-1.5's `pad` pastes the picture on a square of the mean colour and resizes that, which for a screenshot of
800 x 20,000 is 400 million pixels. Here the margin is only a term in a sum. The result equals Pillow's resize of the
square to the bit: Pillow resamples rows, rounds to bytes, then columns, with 22-bit integer coefficients
(src/libImaging/Resample.c).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]
BITS = 22
"""Fractional bits of Pillow's coefficients."""
LIKE = 2
"""Up to this aspect ratio (long over short side) the square is built; it has at most that many times the pixels."""
BAND = 1 << 20
"""Pixels of a channel summed at a time, 8 bytes each."""


def _bicubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _bilinear(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    return np.where(x < 1.0, 1.0 - x, 0.0)


FILTERS: dict[Image.Resampling, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    Image.Resampling.BICUBIC: (2.0, _bicubic),
    Image.Resampling.BILINEAR: (1.0, _bilinear),
}
"""Pillow's filter -> its support in pixels of the result, and its weight function."""


def padded(
    image: Image.Image, side: int, colour: Colour, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Centre an RGB picture on a square of `colour` (an odd margin is smaller at the start) and resize it to side x
    side."""
    width, height = image.size
    whole = max(width, height)
    left, top = (whole - width) // 2, (whole - height) // 2
    if whole <= LIKE * min(width, height):
        square = Image.new("RGB", (whole, whole), colour)
        square.paste(image, (left, top))
        return square.resize((side, side), resample)
    out = Image.new("RGB", (side, side), colour)
    margin = np.array(colour, np.float64)
    if width == whole:  # rows first: they have the square's width
        rows = np.asarray(image.resize((side, height), resample))
        first, inside, outside = _weights(whole, side, top, height, resample)
        shown = _rounded(_product(inside, rows.reshape(height, -1)) + outside[:, None] * np.tile(margin, side))
        out.paste(Image.fromarray(shown.reshape(-1, side, 3)), (0, first))
    else:
        first, inside, outside = _weights(whole, side, left, width, resample)
        pixels = np.asarray(image)
        columns = np.empty((height, len(inside), 3), np.uint8)
        step = max(1, BAND // width)
        for y in range(0, height, step):
            for channel in range(3):
                part = _product(inside, pixels[y : y + step, :, channel].T)
                columns[y : y + step, :, channel] = _rounded(part + outside[:, None] * margin[channel]).T
        out.paste(Image.fromarray(columns).resize((len(inside), side), resample), (first, 0))
    return out


def _product(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """weights [T, N] times bytes [N, M]. Sums of integers below 2^53 are exact in fp64, in any order."""
    return np.asarray(weights @ values.astype(np.float64))


def _rounded(sums: np.ndarray) -> np.ndarray:
    return ((sums.astype(np.int64) + (1 << (BITS - 1))) >> BITS).clip(0, 255).astype(np.uint8)


def _weights(
    whole: int, side: int, start: int, count: int, resample: Image.Resampling
) -> tuple[int, np.ndarray, np.ndarray]:
    """Weights by which `count` pixels at `start` of a line of `whole` contribute to a line of `side`, as in Pillow.

    Returns the first affected pixel of the result, the weights [T, count] from it on, and each one's weight of the
    margin [T].
    """
    reach, shape = FILTERS[resample]
    scale = float(np.float32(whole)) / side
    stretch = max(scale, 1.0)
    support = reach * stretch
    inside: list[np.ndarray] = []
    outside: list[int] = []
    first = max(0, math.floor((start - support) / scale) - 1)
    for x in range(first, side):
        centre = (x + 0.5) * scale
        low, high = max(0, int(centre - support + 0.5)), min(whole, int(centre + support + 0.5))
        if high <= start:
            first = x + 1
            continue
        if low >= start + count:
            break
        weights = shape((np.arange(low, high) - centre + 0.5) * (1.0 / stretch))
        total = np.cumsum(weights)[-1]  # sequential, as in Pillow; numpy's sum is pairwise
        scaled = (weights / total if total else weights) * (1 << BITS)
        whole_numbers = np.trunc(np.where(scaled < 0, scaled - 0.5, scaled + 0.5))
        line, here = np.zeros(count), slice(max(low, start), min(high, start + count))
        line[here.start - start : here.stop - start] = whole_numbers[here.start - low : here.stop - low]
        inside.append(line)
        outside.append(int(whole_numbers.sum() - line.sum()))
    return first, np.stack(inside), np.array(outside, np.float64)
