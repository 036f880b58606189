"""The reader of pictures: what it accepts, how it refuses the rest, and that check and index agree."""

from __future__ import annotations

import io
import json
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from remora.data.check import check_dataset
from remora.data.index_builder import open_dataset
from remora.data.pictures import Picture, examined
from remora.data.pixels import LIMIT, SCANS, PixelBudget, decode, examine, examine_and_measure
from remora.data.sources import find_source
from remora.errors import BrokenRecord

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def saved(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes, flaw: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ flaw)


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with chunks behind its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def noise(*shape: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape)


def exif(turn: int, *entries: bytes, count: int | None = None) -> bytes:
    """EXIF with an orientation and other entries of 12 bytes."""
    body = struct.pack("<HHIHH", 0x0112, 3, 1, turn, 0) + b"".join(entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", count or len(body) // 12) + body + bytes(4)


def entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", tag, kind, count, value)


ODD_TAGS = {
    "a negative number in an unsigned tag": entry(0x0103, 9, 1, 0xFFFFFFF0),
    "an EXIF folder in the middle of nowhere": entry(0x8769, 4, 1, 4_000_000_000),
    "an EXIF folder that is a text": entry(0x8769, 2, 4, 0x41414141),
    "GPS of 2^31 entries": entry(0x8825, 5, 2**31, 8),
    "a rational over zero": entry(0x011A, 5, 1, 0),
    "a type that is none": entry(0x9999, 99, 1, 0),
    "a folder that holds itself": entry(0x8769, 4, 1, 8),
}


@pytest.mark.parametrize("turn", [2, 3, 6, 8])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("odd", ODD_TAGS.values(), ids=ODD_TAGS)
def test_a_picture_is_turned_whatever_stands_beside_its_orientation(odd, form, turn):
    image = Image.new("RGB", (16, 8), RED)
    image.paste(BLUE, (8, 0, 16, 8))
    upright = decode(saved(image, form, exif=exif(turn, odd)), "p")
    assert upright.size == ((8, 16) if turn > 4 else (16, 8)) and not upright.info
    blue = {2: (0, 0), 3: (0, 0), 6: (0, 15), 8: (0, 0)}[turn]
    assert np.allclose(upright.getpixel(blue), BLUE, atol=40)
    assert examine_and_measure(saved(image, form, exif=exif(turn, odd)), "p") == (upright.size, [])


@pytest.mark.parametrize(
    "broken", [b"", b"Exif\0\0", b"Exif\0\0II", b"Exif\0\0XX*\0\x08\0\0\0", exif(6, count=9000)[:-9]]
)
def test_exif_that_no_parser_reads_costs_no_picture(broken):
    content = saved(Image.new("RGB", (16, 8), RED), "JPEG", exif=broken)
    assert decode(content, "p").size == (16, 8) and examine(content, "p") == []


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"tEXt", b"Comment\0" + b"a" * (70 << 20)),
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"zTXt", b"Comment\0\0no zlib"),
        chunk(b"tEXt", b"Comment\0wrong checksum", flaw=1),
        chunk(b"acTL", b"no animation"),
        chunk(b"gAMA", b""),
        *(chunk(b"tEXt", b"") for _ in range(2)),
    ],
    ids=range(11),
)
def test_what_a_png_says_besides_its_pixels_costs_no_picture(extra):
    pixels = noise(6, 5, 3).astype(np.uint8)
    content = with_chunks(saved(Image.fromarray(pixels), "PNG"), extra)
    assert np.array_equal(np.asarray(decode(content, "p")), pixels) and examine(content, "p") == []


@pytest.mark.parametrize("place", ["eXIf", "XMP", "text", "behind"])
def test_a_png_is_turned_by_any_chunk_that_says_so(place):
    png = saved(Image.new("RGB", (4, 2), RED), "PNG")
    tiff = exif(6)[6:]
    said = {
        "eXIf": chunk(b"eXIf", tiff),
        "behind": chunk(b"eXIf", tiff),
        "XMP": chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
        "text": chunk(
            b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n{len(tiff)}\n{exif(6).hex()}\n".encode())
        ),
    }[place]
    content = png[:-12] + said + png[-12:] if place == "behind" else with_chunks(png, said)
    assert decode(content, "p").size == (2, 4)


def png16(colour_type: int, values: list[int], hidden: bytes = b"") -> bytes:
    channels = 3 if colour_type == 2 else 1
    head = struct.pack(">IIBBBBB", len(values) // channels, 1, 16, colour_type, 0, 0, 0)
    data = zlib.compress(b"\0" + struct.pack(f">{len(values)}H", *values))
    chunks = [
        chunk(b"IHDR", head),
        chunk(b"tRNS", hidden) if hidden else b"",
        chunk(b"IDAT", data),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_sixteen_bit_colour_that_stands_for_nothing_is_white():
    grey = decode(png16(0, [0x1234, 0x1235, 0xFFFF], struct.pack(">H", 0x1234)), "p")
    assert np.asarray(grey)[0, :, 0].tolist() == [255, 0x12, 255]
    colour = decode(png16(2, [0x1234, 0x2345, 0x3456, 0, 0, 0], struct.pack(">3H", 0x1234, 0x2345, 0x3456)), "p")
    assert np.asarray(colour)[0].tolist() == [list(WHITE), [0, 0, 0]]


@pytest.mark.parametrize("hidden", [b"\0", b"", b"\0\0\0\0\0\0\0"])
def test_a_transparent_colour_that_the_mode_cannot_have_hides_nothing(hidden):
    content = with_chunks(saved(Image.new("RGB", (3, 2), RED), "PNG"), chunk(b"tRNS", hidden))
    kinds = [kind for kind, _ in examine(content, "p")]
    try:
        assert decode(content, "p").getpixel((0, 0)) in (RED, WHITE) and not kinds
    except BrokenRecord as e:
        assert kinds == [e.kind]


@pytest.mark.parametrize(
    ("image", "form", "why"),
    [
        (Image.fromarray(noise(4, 4).astype(np.float32) / 256), "TIFF", "floating-point numbers"),
        (Image.fromarray(noise(4, 4).astype(np.float32) / 256), "PPM", "floating-point numbers"),
        (Image.fromarray(noise(4, 4, high=2**31 - 1).astype(np.int32)), "TIFF", "32-bit numbers from"),
        (Image.fromarray(-noise(4, 4).astype(np.int32)), "TIFF", "32-bit numbers from -"),
        (Image.new("LAB", (4, 4)), "TIFF", "CIELAB"),
    ],
)
def test_pixels_without_a_stated_range_are_refused_with_the_way_out(image, form, why):
    with pytest.raises(BrokenRecord, match=why) as e:
        decode(saved(image, form), "p")
    assert e.value.kind == "unsupported-image" and str(e.value).endswith("; convert it to JPEG or PNG")
    assert examine(saved(image, form), "p") == [("unsupported-image", e.value.problem)]


def test_a_sliver_of_the_range_is_noted():
    def notes(values: np.ndarray, form: str = "PNG", **how) -> list[str]:
        return [kind for kind, _ in examine(saved(Image.fromarray(values), form, **how), "p")]

    depth = noise(16, 16, high=4_096)
    for kind, form in (("<u2", "PNG"), (">u2", "TIFF"), ("<i4", "TIFF")):
        assert notes(depth.astype(kind), form) == ["narrow-range-image"], kind
        assert notes((depth * 16).astype(kind), form) == [], kind
    flat = (noise(16, 16, high=9) + 40).astype(np.uint8)
    assert notes(flat) == notes(flat, "JPEG", quality=100) == ["narrow-range-image"]
    assert notes(np.full((4, 4), 40, np.uint8)) == []  # of one colour, and meant to be
    # Averages of 8 x 8 pixels, which a JPEG is looked at by, are all alike here; the pixels are not.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert notes(board, "JPEG", quality=100) == []


HEADS = {
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": ("unsupported-image", "HEIC, which is not supported"),
    b"\0\0\0\x1cftypmif1\0\0\0\0mif1miaf": ("unsupported-image", "HEIF, which is not supported"),
    b"\0\0\0\x18ftypisom\0\0\0\0isommp42": ("unsupported-image", "a video (MP4), which is not supported"),
    b"\xff\x0a rest": ("unsupported-image", "JPEG XL, which is not supported"),
    b"<?xml version='1.0'?>\n<!-- x -->\n<svg xmlns='x'></svg>": ("unsupported-image", "SVG, which is not supported"),
    b"  <svg></svg>": ("unsupported-image", "SVG, which is not supported"),
    b"%PDF-1.7\n": ("unsupported-image", "a PDF, which is not supported"),
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": ("unsupported-image", "PostScript, which is not supported"),
    b"qoif" + bytes(20): ("unsupported-image", "QOI, which is not supported"),
    b"<!DOCTYPE html><html>404": ("corrupt-image", "a web page or XML, not a picture; download the picture itself"),
    b"version https://git-lfs.github.com/spec/v1\n": ("corrupt-image", "a Git LFS pointer, not the file itself"),
    b"this is a text \xc3\xa9": ("corrupt-image", "text, not a picture"),
    b'{"error": "not found"}': ("corrupt-image", "text, not a picture"),
    b"P6 is how this text begins": ("corrupt-image", ""),
    b"": ("corrupt-image", "the file is empty"),
    bytes(100): ("corrupt-image", "an unknown format"),
}


@pytest.mark.parametrize(("content", "expected"), HEADS.items(), ids=[h[:16] for h in HEADS])
def test_what_is_no_picture_is_called_what_it_is(content, expected):
    ((kind, why),) = examine(content, "p.jpg")
    assert kind == expected[0] and why.startswith(f"p.jpg: {expected[1]}")
    with pytest.raises(BrokenRecord) as e:
        decode(content, "p.jpg")
    assert e.value.kind == kind


def test_too_many_pixels_are_refused_by_the_header(monkeypatch):
    head = struct.pack(">IIBBBBB", 203_000, 1_000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9)))
    assert examine(content, "p") == [
        ("too-large-image", "p: it has 203,000,000 pixels, more than 178,956,970; make it smaller")
    ]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # lifting Pillow's limit does not lift this one
    with pytest.raises(BrokenRecord, match="203,000,000 pixels") as e:
        decode(content, "p")
    assert e.value.kind == "too-large-image"


def test_a_large_picture_that_is_cut_is_both():
    whole = saved(Image.new("L", (8_000, 7_000), 77), "PNG", compress_level=1)
    kinds = [kind for kind, _ in examine(whole[: len(whole) // 2], "p")]
    assert kinds == ["oversized-image", "corrupt-image"]


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded(monkeypatch):
    content = saved(Image.new("RGB", (64, 64), RED), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    assert examine(content[:-2] + last * 20 + b"\xff\xd9", "p") == []
    assert examine(content + last * 1_000, "p") == []  # behind its end: a phone's film
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    ((kind, why),) = examine(content[:-2] + last * SCANS + b"\xff\xd9", "p")
    assert kind == "unsupported-image" and "more than 100 scans" in why


@pytest.mark.parametrize("form", ["JPEG", "GIF", "BMP", "PNG", "TIFF", "WEBP", "PPM", "TGA", "AVIF", "JPEG2000"])
def test_a_picture_cut_anywhere_has_one_verdict(form):
    whole = saved(Image.fromarray(noise(24, 24, 3).astype(np.uint8)), form)
    refused = 0
    for end in range(0, len(whole), max(1, len(whole) // 150)):
        found = [kind for kind, _ in examine(whole[:end], "p")]
        try:
            decode(whole[:end], "p")
        except BrokenRecord as e:
            assert found == [e.kind]
            refused += 1
        else:
            assert found == []
    assert refused > 100


def test_warnings_are_not_errors_wherever_pictures_are_read(capfd, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    large = saved(Image.new("1", (32, 32)), "PNG")  # a DecompressionBombWarning of Pillow's
    odd = saved(Image.new("RGB", (4, 4), RED), "JPEG", exif=exif(1, *ODD_TAGS.values()))
    torn = bytearray(saved(Image.fromarray(noise(32, 32, 3).astype(np.uint8)), "TIFF", compression="tiff_deflate"))
    torn[200:240] = bytes([255]) * 40
    for action in ("error", "always"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            assert examine(large, "p") == examine(odd, "p") == []
            assert [k for k, _ in examine(bytes(torn), "p")] == ["corrupt-image"]
    assert capfd.readouterr().err == ""  # libtiff prints what it raises


def test_pixels_of_all_threads_together_are_limited():
    budget, inside, most = PixelBudget(100), 0, 0
    lock, together = threading.Lock(), threading.Barrier(8)

    def take(pixels: int) -> None:
        nonlocal inside, most
        together.wait()
        for _ in range(50):
            with budget.hold(pixels):
                with lock:
                    inside += pixels
                    most = max(most, inside)
                with lock:
                    inside -= pixels

    threads = [threading.Thread(target=take, args=(pixels,)) for pixels in (10, 20, 40, 60, 90, 100, 100, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < most <= 100
    with budget.hold(1_000):  # admitted alone, whatever its size
        pass
    assert LIMIT > 0


NAMES = {
    "none.png": "missing-image",
    "file.png/inside.png": "missing-image",
    "loop.png": "missing-image",
    "a" * 300 + ".png": "missing-image",
    "a/" * 3000 + "b.png": "missing-image",
    "data:image/png;base64," + "QUFB" * 5000: "missing-image",
    "folder": "corrupt-image",
    "": "corrupt-image",
    ".": "corrupt-image",
    "empty.png": "corrupt-image",
    "float.tif": "unsupported-image",
    "cut.jpg": "corrupt-image",
    "cut.gif": "corrupt-image",
    "cut.bmp": "corrupt-image",
    "odd.jpg": None,
    "file.png": None,
}
IN_A_RECORD = {
    "a" * 300 + ".png": "image-field",
    "a/" * 3000 + "b.png": "image-field",
    "data:image/png;base64," + "QUFB" * 5000: "corrupt-image",  # read as the bytes that it holds
    "": "image-field",
}
"""What a record's own rules say of some names, before any file is looked for."""


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A record for each of NAMES, and the files there."""
    image = Image.fromarray(noise(40, 40, 3).astype(np.uint8))
    image.save(tmp_path / "file.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "odd.jpg").write_bytes(saved(image, "JPEG", exif=exif(6, *ODD_TAGS.values())))
    Image.fromarray(noise(4, 4).astype(np.float32)).save(tmp_path / "float.tif")
    for form in ("jpg", "gif", "bmp"):
        image.save(tmp_path / f"cut.{form}")
        whole = (tmp_path / f"cut.{form}").read_bytes()
        (tmp_path / f"cut.{form}").write_bytes(whole[:-40])
    said = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "b"}]
    (tmp_path / "train.json").write_text(json.dumps([{"image": [name], "conversations": said} for name in NAMES]))
    return tmp_path / "train.json"


def test_check_index_and_training_agree_on_every_name(dataset):
    report = check_dataset(str(dataset), str(dataset.parent))
    indexed = open_dataset(find_source(str(dataset)), str(dataset), str(dataset.parent), dataset.parent / "index")
    by_record = {flaw.record: (flaw.kind, flaw.problem) for flaw in indexed.flaws()}
    for i, (name, kind) in enumerate(NAMES.items()):
        picture = Picture(f"{dataset.parent}/{name}")
        try:
            picture.open()
        except BrokenRecord as e:
            assert e.kind == kind, name[:50]
            if name in IN_A_RECORD:
                assert by_record[i][0] == IN_A_RECORD[name], name[:50]
            else:
                assert by_record[i] == (kind, e.problem), name[:50]
            assert "\n" not in str(e) and len(str(e)) < 600
        else:
            assert kind is None and i not in by_record, name[:50]
        assert [k for k, _ in examined(picture).problems] == ([kind] if kind else [])
    expected = [kind for kind in (NAMES | IN_A_RECORD).values() if kind]
    assert report.counts == indexed.counts == {kind: expected.count(kind) for kind in set(expected)}
    kept = open_dataset(find_source(str(dataset)), str(dataset), str(dataset.parent), dataset.parent / "index")
    assert kept.folder == indexed.folder  # nothing about a name that no file can have makes it look changed


def test_what_check_counted_can_be_skipped(dataset, monkeypatch):
    from remora.data.mixture import open_entry
    from remora.spec import MixtureEntry

    report = check_dataset(str(dataset), str(dataset.parent))
    entry = MixtureEntry(path=str(dataset), skip=tuple(report.counts), max_skipped=1)
    kept = open_entry(entry, dataset.parent / "data")
    assert [s.images[0].open().size for s in kept] == [(40, 40), (40, 40)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_decoding_needs_no_ghostscript(monkeypatch):
    """EPS would start another program on a stranger's file."""
    eps = saved(Image.new("RGB", (4, 4)), "EPS")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("started"))
    assert examine(eps, "p")[0][0] == "unsupported-image"
