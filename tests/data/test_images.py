"""Any picture file becomes the RGB that a person would see, and then the numbers that an encoder reads."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image

from remora import catalog
from remora.data.images import open_image, preprocess
from remora.errors import DataError

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    assert image.mode == "RGB"
    return {colour for _, colour in image.getcolors()}


@pytest.mark.parametrize(("alpha", "shown"), [(0, WHITE), (255, RED), (51, (255, 204, 204))])
def test_transparency_is_laid_on_white(alpha, shown, tmp_path):
    Image.new("RGBA", (4, 4), (*RED, alpha)).save(tmp_path / "a.png")
    assert colours(open_image(tmp_path / "a.png")) == {shown}


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (4, 2), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (0, 0, 2, 2))
    image.save(tmp_path / "p.png")
    assert colours(open_image(tmp_path / "p.png")) == {RED, BLUE}
    image.save(tmp_path / "t.png", transparency=1)
    assert colours(open_image(tmp_path / "t.png")) == {RED, WHITE}


def test_grey_with_alpha_and_one_bit(tmp_path):
    Image.new("LA", (2, 2), (0, 0)).save(tmp_path / "la.png")
    Image.new("1", (2, 2), 1).save(tmp_path / "bit.png")
    assert colours(open_image(tmp_path / "la.png")) == colours(open_image(tmp_path / "bit.png")) == {WHITE}


@pytest.mark.parametrize(("value", "shown"), [(0, 0), (32768, 128), (65535, 255)])
@pytest.mark.parametrize("name", ["grey.png", "grey.tiff"])
def test_sixteen_bit_grey_keeps_its_brightness(value, shown, name, tmp_path):
    Image.fromarray(np.full((3, 3), value, np.uint16)).save(tmp_path / name)
    assert colours(open_image(tmp_path / name)) == {(shown,) * 3}


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=100)
    assert np.allclose(np.asarray(open_image(tmp_path / "c.jpg")), RED, atol=3)  # JPEG's rounding


def test_exif_turns_the_picture_upright(tmp_path):
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: show it a quarter turn clockwise
    image.save(tmp_path / "e.png", exif=exif)
    upright = open_image(tmp_path / "e.png")
    assert upright.size == (1, 2)
    assert [upright.getpixel((0, y)) for y in (0, 1)] == [RED, BLUE]


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert colours(open_image(tmp_path / "a.gif")) == {RED}


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"^missing image: {tmp_path}/no.png; put it there or remove its record$"):
        open_image(tmp_path / "no.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_broken_picture_is_named_in_one_line(kind, tmp_path):
    whole = tmp_path / f"whole.{kind}"
    Image.effect_noise((40, 40), 90).convert("RGB").save(whole, kind)
    for name, content in {
        "cut": whole.read_bytes()[: whole.stat().st_size // 2],
        "none": b"",
        "text": b"hello",
    }.items():
        broken = tmp_path / name
        broken.write_bytes(content)
        with pytest.raises(DataError) as caught:
            open_image(broken)
        assert str(caught.value).startswith(f"unreadable image: {broken}: ") and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # Pillow also warns about some of these
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_no_broken_byte_raises_anything_else(kind, tmp_path):
    """A decoder may take the byte or refuse the file; other errors would end a run without the file's name."""
    picture = tmp_path / "p"
    Image.effect_noise((16, 16), 90).convert("RGB").save(picture, kind)
    whole = picture.read_bytes()
    for at in range(min(len(whole), 300)):
        picture.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(DataError):
            open_image(picture)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(DataError, match="unreadable image"):
        open_image(tmp_path)


@pytest.mark.parametrize(("name", "entry"), catalog.entries("vision").items(), ids=catalog.entries("vision"))
def test_pixels_have_the_encoders_size_and_range(name, entry):
    side = entry.image_size
    for colour in ((0, 0, 0), WHITE, (255, 128, 0)):
        pixels = preprocess(Image.new("RGB", (30, 70), colour), entry)
        assert pixels.shape == (3, side, side) and pixels.dtype == torch.float32 and pixels.is_contiguous()
        expected = (np.array(colour) / 255 - entry.mean) / entry.std
        # fp32 rounds 1/255 and the quotient, each by less than 1e-7
        assert torch.allclose(pixels, torch.tensor(expected, dtype=torch.float32)[:, None, None], atol=1e-6)


def test_a_picture_of_the_right_size_is_not_resampled():
    entry = catalog.vision("efficientnet-lite0")
    noise = np.random.default_rng(0).integers(0, 256, (entry.image_size, entry.image_size, 3), dtype=np.uint8)
    pixels = preprocess(Image.fromarray(noise), entry).numpy().transpose(1, 2, 0)
    back = np.rint((pixels * entry.std + entry.mean) * 255)
    assert (back == noise).all()
