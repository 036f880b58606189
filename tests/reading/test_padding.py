"""`aspect: pad` without building the square: bit-equal to resizing it, with memory proportional to the picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from remora.reading import padding
from remora.reading.padding import padded

COLOUR = (122, 116, 104)
FILTERS = [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR]


def of_a_square(image: Image.Image, side: int, resample: Image.Resampling) -> np.ndarray:
    """As in the published code."""
    whole = max(image.size)
    square = Image.new("RGB", (whole, whole), COLOUR)
    square.paste(image, ((whole - image.width) // 2, (whole - image.height) // 2))
    return np.asarray(square.resize((side, side), resample))


def picture(width: int, height: int, extreme: bool) -> Image.Image:
    values = np.random.default_rng([width, height]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray((values > 127).astype(np.uint8) * 255 if extreme else values)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("extreme", [False, True], ids=["noise", "black and white"])  # these overshoot at every edge
@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("side", [1, 24, 33, 336])
def test_it_is_the_square_s_to_the_last_bit(side, resample, extreme, monkeypatch):
    monkeypatch.setattr(padding, "LIKE", 0)  # also where the square is made otherwise
    monkeypatch.setattr(padding, "BAND", 1_000)
    for long in (1, 2, 5, 24, 25, 47, 337):
        for short in {1, 2, 3, long // 3, long // 2, long - 1, long} - {0, -1}:
            if short <= long:
                for size in ((long, short), (short, long)):
                    image = picture(*size, extreme)
                    found = np.asarray(padded(image, side, COLOUR, resample))
                    assert np.array_equal(found, of_a_square(image, side, resample)), size


@pytest.mark.parametrize("size", [(1, 22_000), (22_000, 1), (3, 60_000), (150_000, 2)], ids=str)
def test_a_line_makes_no_square(size, monkeypatch):
    made, new = [], Image.new

    def watched(mode, size, *args):
        made.append(size[0] * size[1])
        return new(mode, size, *args)

    monkeypatch.setattr(Image, "new", watched)
    image = picture(*size, False)
    assert padded(image, 336, COLOUR).size == (336, 336)
    assert max(made) <= 336 * 336 + 2 * image.width * image.height


def test_a_long_line_is_where_it_was():
    """As large as the square can be made: 3,000 x 3,000."""
    for size in ((7, 3_000), (3_000, 7)):
        image = picture(*size, True)
        assert np.array_equal(np.asarray(padded(image, 336, COLOUR)), of_a_square(image, 336, FILTERS[0]))
