"""Any picture file becomes the RGB that a person would see, and then an encoder's pixels."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from remora import catalog
from remora.data.pictures import open_image
from remora.errors import DataError
from remora.reading.images import preprocess, shrunk
from support.encoders import vision

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


def test_sixteen_bits_of_either_byte_order_and_thirty_two(tmp_path):
    shades = np.array([[0, 257, 32768, 65535]])
    Image.fromarray(shades.astype(">u2")).save(tmp_path / "big.tiff")
    Image.fromarray(shades.astype(np.int32)).save(tmp_path / "int.tiff")
    (tmp_path / "p.pgm").write_bytes(b"P5 4 1 65535 " + shades.astype(">u2").tobytes())
    modes = set()
    for name in ("big.tiff", "int.tiff", "p.pgm"):
        with Image.open(tmp_path / name) as image:
            modes.add(image.mode)
        assert np.asarray(open_image(tmp_path / name))[..., 0].tolist() == [[0, 1, 128, 255]], name
    assert {"I;16B", "I"} <= modes


@pytest.mark.parametrize(("mode", "colour", "hidden"), [("RGB", RED, RED), ("L", 76, 76), ("1", 0, 0)])
def test_one_colour_that_stands_for_nothing(mode, colour, hidden, tmp_path):
    """PNG can name a transparent colour in pictures without an alpha channel."""
    image = Image.new(mode, (2, 1), colour)
    image.putpixel((1, 0), BLUE if mode == "RGB" else 255)
    image.save(tmp_path / "t.png", transparency=hidden)
    shown = open_image(tmp_path / "t.png")
    assert [shown.getpixel((x, 0)) for x in (0, 1)] == [WHITE, BLUE if mode == "RGB" else WHITE]


def test_a_palette_of_half_transparent_colours(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png", transparency=bytes([51, 255]))
    shown = open_image(tmp_path / "p.png")
    assert [shown.getpixel((x, 0)) for x in (0, 1)] == [(255, 204, 204), BLUE]


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


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_turn_is_undone(turn, tmp_path):
    """A camera writes the sensor's rows as `turn` says (EXIF 2.32, tag 0x0112); the world stays as it was."""
    world = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    stored = {
        1: world,
        2: world[:, ::-1],
        3: world[::-1, ::-1],
        4: world[::-1],
        5: world.swapaxes(0, 1),
        6: np.rot90(world),  # the top of the world is the sensor's right side
        7: world[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(world, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "e.png", exif=exif)
    assert np.array_equal(np.asarray(open_image(tmp_path / "e.png")), world)


def test_a_transparent_picture_is_turned_too(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "e.png", exif=exif, transparency=1)
    upright = open_image(tmp_path / "e.png")
    assert [upright.getpixel((0, y)) for y in (0, 1)] == [RED, WHITE]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tiff", "a.avif"])
def test_an_animation_is_its_first_frame(name, tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in (RED, BLUE)]
    exact = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **exact)
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 2
    shown = np.asarray(open_image(tmp_path / name)).astype(int)
    assert shown.shape == (4, 4, 3) and np.abs(shown - RED).max() <= 3  # AVIF rounds colours


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


@pytest.mark.slow
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


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SHAPES = [(1, 1), (1, 60), (60, 1), (1, 64), (3, 100), (300, 7), (336, 336), (640, 480), (479, 641), (25, 24), (23, 24)]
"""Width and height: smaller and larger than what is wanted, equal to it, odd and even, long and thin."""


def noise(width: int, height: int) -> Image.Image:
    shape = (height, width, 3)
    return Image.fromarray(np.random.default_rng([width, height]).integers(0, 256, shape, dtype=np.uint8))


def encoder(fit: str, side: int, **changes) -> catalog.Vision:
    return vision("eva-clip", fit=fit, image_size=side, **({"mean": CLIP_MEAN, "std": CLIP_STD} | changes))


def published(image: Image.Image, entry: catalog.Vision, side: int) -> np.ndarray:
    """What transformers' own preprocessing makes of it, [3, side, side]."""
    square = {"height": side, "width": side}
    numbers = {"image_mean": list(entry.mean), "image_std": list(entry.std)}
    if entry.fit == "crop":
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square, **numbers)
    else:
        processor = SiglipImageProcessorPil(size=square, **numbers)
    return processor(image, return_tensors="np")["pixel_values"][0]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("side", [24, 33, 336])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_square_is_the_publishers_own_to_the_last_bit(fit, side, shape):
    image, entry = noise(*shape), encoder(fit, side)
    assert np.array_equal(preprocess(image, entry).numpy(), published(image, entry, side))


def test_square_of_siglips_mean_and_deviation():
    image, entry = noise(50, 40), encoder("stretch", 24, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert np.array_equal(preprocess(image, entry).numpy(), published(image, entry, 24))


ODD = [(337, 338), (341, 500), (500, 339), (339, 1023), (640, 427), (333, 500), (1, 1), (225, 224), (61, 60)]
"""Width and height whose halves and ratios are no whole numbers."""


def as_shipped(name: str, image: Image.Image) -> np.ndarray:
    """What a publisher's own processor makes of it, set as its preprocessor_config.json sets it, [3, side, side].

    ViT-L/16 in21k and SigLIP 2 resize with filter 2 (bilinear), DINOv2 to 256 before it crops 224, CLIP and SigLIP
    with filter 3 (bicubic).
    """
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    clip = {"image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD)}
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    square = lambda side: {"height": side, "width": side}  # noqa: E731
    processor = {
        "vit-l-224-in21k": lambda: ViTImageProcessorPil(size=square(224), resample=2, **half),
        "siglip2-base-256": lambda: SiglipImageProcessorPil(size=square(256), resample=2, **half),
        "siglip2-so400m-384": lambda: SiglipImageProcessorPil(size=square(384), resample=2, **half),
        "siglip-so400m-384": lambda: SiglipImageProcessorPil(size=square(384), resample=3, **half),
        "dinov2-l-224": lambda: BitImageProcessorPil(
            size={"shortest_edge": 256}, crop_size=square(224), resample=3, do_convert_rgb=True, **imagenet
        ),
        "clip-l-336": lambda: CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size=square(336), resample=3, **clip
        ),
    }[name]()
    return processor(image, return_tensors="np")["pixel_values"][0]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("shape", ODD, ids=str)
@pytest.mark.parametrize(
    "name",
    ["vit-l-224-in21k", "siglip2-base-256", "siglip2-so400m-384", "siglip-so400m-384", "dinov2-l-224", "clip-l-336"],
)
def test_a_shipped_encoder_has_its_publishers_pixels_to_the_last_bit(name, shape):
    image = noise(*shape)
    assert np.array_equal(preprocess(image, catalog.vision(name)).numpy(), as_shipped(name, image))


def by_torchvision(image: Image.Image, side: int) -> np.ndarray:
    """Resize(side), CenterCrop(side), ToTensor, Normalize of torchvision on a Pillow picture, from its documentation:
    the longer side is int(side * long / short), a crop begins at the whole number nearest to half of the rest, halves
    to even, and bytes are divided by 255 in single precision."""
    short, long = min(image.size), max(image.size)
    grown = int(side * long / short)
    size = (side, grown) if image.width <= image.height else (grown, side)
    left, top = (round((s - side) / 2.0) for s in size)
    cut = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    scaled = torch.from_numpy(np.array(cut)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, std = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    return scaled.sub(mean).div(std).numpy()


@pytest.mark.parametrize("shape", [*ODD, (336, 337), (336, 339), (336, 343), (347, 336), (351, 336)], ids=str)
def test_eva_clip_has_torchvisions_pixels(shape):
    """Where the rest of the longer side is 3 more than a multiple of 4, its crop begins one pixel later than CLIP's."""
    image, eva = noise(*shape), catalog.vision("eva02-clip-l-336")
    assert np.array_equal(preprocess(image, eva).numpy(), by_torchvision(image, 336))


@pytest.mark.parametrize("aspect", ["square", "pad"])
@pytest.mark.parametrize("name", ["dinov2-l-224", "clip-l-224", "vit-l-224-in21k", "eva02-clip-l-336"])
@pytest.mark.parametrize("shape", [(337, 500), (90, 60), (224, 224), (256, 300), (3, 2000)], ids=str)
def test_a_picture_that_is_kept_small_gives_the_same_pixels(name, aspect, shape):
    """Also where the publisher cuts a rim off, which must not happen twice."""
    image, entry = noise(*shape), catalog.vision(name)
    kept = shrunk(image, entry, aspect)
    assert np.array_equal(preprocess(kept, entry, aspect).numpy(), preprocess(image, entry, aspect).numpy())
    assert np.array_equal(np.asarray(shrunk(kept, entry, aspect)), np.asarray(kept))
    assert max(kept.size) <= max(512, max(shape)) and kept.mode == "RGB"


def test_pad_before_a_rim_is_cut_is_the_publishers_processor_on_the_square():
    """LLaVA pads and then gives the square to the processor, which resizes it to 256 and crops 224."""
    image = noise(301, 200)
    square = Image.new("RGB", (301, 301), tuple(int(m * 255) for m in (0.485, 0.456, 0.406)))
    square.paste(image, (0, 50))
    expected = as_shipped("dinov2-l-224", square)
    assert np.array_equal(preprocess(image, catalog.vision("dinov2-l-224"), "pad").numpy(), expected)


@pytest.mark.parametrize("shape", [(3, 2000), (2000, 7)], ids=str)
def test_a_very_long_picture_loses_its_rim_too_where_the_publisher_cuts_it(shape):
    image, entry = noise(*shape), encoder("crop", 32, resize=40, resample="bilinear")
    grown = 40 * max(shape) // min(shape)
    size = (40, grown) if shape[0] < shape[1] else (grown, 40)
    left, top = ((s - 32) // 2 for s in size)
    cut = np.asarray(image.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + 32, top + 32)))
    shades = preprocess(image, entry).numpy() * np.reshape(CLIP_STD, (3, 1, 1)) + np.reshape(CLIP_MEAN, (3, 1, 1))
    assert np.abs(shades.transpose(1, 2, 0) * 255 - cut).mean() < 0.05


@pytest.mark.parametrize("shape", [(1, 65), (1, 5000), (300, 4), (3, 2000)], ids=str)
def test_a_very_long_picture_is_cropped_before_it_grows(shape, monkeypatch):
    image, entry = noise(*shape), encoder("crop", 33)
    grown, resize = [], Image.Image.resize

    def watched(self, size, *args, **kwargs):
        grown.append(size[0] * size[1])
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    shades = preprocess(image, entry).numpy() * np.reshape(CLIP_STD, (3, 1, 1)) * 255
    assert max(grown) <= 33 * max(33, *shape)
    expected = published(image, entry, 33) * np.reshape(CLIP_STD, (3, 1, 1)) * 255
    # Pillow holds the crop's edges in single precision, which moves a pixel by a thousandth of its size; on noise,
    # where neighbours differ by up to 255, that is seldom more than a shade.
    assert np.abs(shades - expected).mean() < 0.05 and np.abs(shades - expected).max() < 3


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("shape", [(10, 10), (11, 4), (4, 11), (1, 9), (50, 31), (31, 50), (100, 1)], ids=str)
def test_pad_puts_the_whole_picture_on_the_mean_colour(fit, shape):
    """LLaVA-1.5's rule: the colour is int(255 * mean), the shorter side's first margin the smaller half."""
    image, entry = noise(*shape), encoder(fit, 24)
    side = max(shape)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = (122, 116, 104)
    left, top = (side - shape[0]) // 2, (side - shape[1]) // 2
    square[top : top + shape[1], left : left + shape[0]] = np.asarray(image)
    expected = published(Image.fromarray(square), entry, 24)
    assert np.array_equal(preprocess(image, entry, "pad").numpy(), expected)


def test_pixels_of_several_scales_come_at_the_largest():
    image, entry = noise(70, 50), encoder("stretch", 24, scales=(24, 48, 72))
    assert np.array_equal(preprocess(image, entry).numpy(), published(image, entry, 72))
    assert preprocess(image, entry, "pad").shape == (3, 72, 72)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("name", "entry"), catalog.entries("vision").items(), ids=catalog.entries("vision"))
def test_pixels_have_the_encoders_size_and_range(name, entry):
    side = max((entry.image_size, *entry.scales))
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
