"""The benchmark demo-styles, from made packages in Iconify's layout. No network.

pytest tests/demo/test_style_data.py
"""

import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from remora import catalog
from remora.commands import data
from remora.commands.data_options import DataDemoOptions
from remora.data import locations
from remora.demo import archives, build_styles, concepts, openmoji, styles, testing
from remora.demo.archives import Download
from remora.demo.concepts import Concept
from remora.demo.styles import CODES, ICONS, IconPackage
from remora.errors import DataError, SpecError
from support.icons import COLOURS, HIGH, WIDE, icons, npm, write_packages

LIMIT = 4


@pytest.fixture(scope="module")
def own() -> dict[Concept, Image.Image]:
    return openmoji.distinct(concepts.known_concepts(0, limit=LIMIT))


@pytest.fixture
def packages(
    own: dict[Concept, Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, IconPackage]:
    """Noto's and Twemoji's: without flags, as Noto is."""
    made = write_packages([c for c in own if c.kind != "flag"], tmp_path / "published")
    monkeypatch.setattr(styles, "PACKAGES", made)
    monkeypatch.setattr(locations, "PAUSE", 0.0)
    return made


def test_the_styles_differ_in_the_drawing_only(
    own: dict[Concept, Image.Image], packages: dict[str, IconPackage], tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "styles"
    manifest = build_styles(folder, limit=LIMIT)
    lines = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    assert [line["question_id"] for line in lines] == list(range(len(lines)))

    # The questions are the demo's, the same of each style, and about the same concepts.
    seen, unseen = concepts.split(list(own), 0)
    demo = {(q["text"], q["answer"]) for q in (*testing.seen(seen, 0), *testing.unseen(unseen, 0))}
    asked: dict[str, list[tuple[object, ...]]] = {style: [] for style in ("openmoji", *packages)}
    for line in lines:
        style, _, file = line["image"].partition("/")
        assert line["category"].startswith(f"{style}, ") and (folder / "images" / line["image"]).is_file()
        assert (line["text"], line["answer"]) in demo
        rest = line["category"].removeprefix(style)
        asked[style].append((file, line["text"], line["answer"], line.get("choices"), rest))
    assert asked["openmoji"] == asked["noto"] == asked["twemoji"]
    flagless = [[c for c in part if c.kind != "flag"] for part in (seen, unseen)]
    assert Counter(line[4] for line in asked["noto"]) == {
        ", name of four": len(flagless[0]), ", kind": len(flagless[0]), ", unseen": 2 * len(flagless[1])
    }  # fmt: skip
    held = {f"{c.code}.png" for c in unseen}
    assert all((line[0] in held) == (line[4] == ", unseen") for line in asked["noto"])

    # OpenMoji's pictures are the demo's; the others have the same ground and the drawing in the same place.
    for concept in (*flagless[0][:3], *flagless[1][:3]):
        number = 0 if concept in unseen else openmoji.RENDITIONS
        demo_picture = openmoji.rendition(own[concept], concept, number, 0)
        shown = {s: Image.open(folder / "images" / s / f"{concept.code}.png") for s in asked}
        assert shown["openmoji"].tobytes() == demo_picture.tobytes()
        corners = {s: [p.getpixel((x, y)) for x in (0, 95) for y in (0, 95)] for s, p in shown.items()}
        assert Counter(corners["noto"]).most_common(1)[0][0] == Counter(corners["openmoji"]).most_common(1)[0][0]
        for style, colour in {"noto": (255, 0, 0), "twemoji": (0, 255, 0)}.items():
            assert colour in {shown[style].getpixel((x, y)) for x in range(96) for y in range(96)}
    kinds = {part: sum(n.values()) for part, n in manifest["concepts"].items()}
    assert kinds == {"seen": len(flagless[0]), "unseen": len(flagless[1])}
    for package in packages.values():  # a second build downloads nothing
        Path(package.file.url.removeprefix("file://")).unlink()
    assert build_styles(folder, limit=LIMIT) == manifest
    assert build_styles(folder.with_name("again"), limit=LIMIT)["sha256"] == manifest["sha256"]


def test_a_drawing_takes_the_place_of_openmojis() -> None:
    like = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    like.paste("blue", (20, 10, 60, 90))
    drawing = Image.new("RGBA", (300, 200), (0, 0, 0, 0))
    drawing.paste("red", (100, 100, 100 + 5 * WIDE, 100 + 5 * HIGH))
    placed = styles.fitted(drawing, like)
    assert placed.size == like.size and placed.getbbox() == (0, 30, 80, 70)


def test_a_drawing_is_found_with_and_without_a_variation_selector(
    own: dict[Concept, Image.Image], tmp_path: Path
) -> None:
    some = list(own)[:3]
    found = styles.redrawn(npm(icons(some[:2], COLOURS["noto"]), tmp_path / "x.tgz"), own)
    assert list(found) == some[:2]
    for concept, drawing in found.items():
        left, top, right, bottom = own[concept].getchannel("A").getbbox() or (0, 0, 0, 0)
        box = drawing.getchannel("A").getbbox() or (0, 0, 0, 0)
        assert max(box[2] - box[0], box[3] - box[1]) <= max(right - left, bottom - top)
        assert abs((box[0] + box[2]) - (left + right)) <= 2 and abs((box[1] + box[3]) - (top + bottom)) <= 2


@pytest.mark.parametrize("harm", ["no archive", "torn", "flipped", "no codes", "no JSON", "no icons", "no SVG"])
def test_a_bad_package_is_refused_in_one_line(own: dict[Concept, Image.Image], tmp_path: Path, harm: str) -> None:
    files: dict[str, object] = dict(icons(own, "red"))
    if harm == "no codes":
        del files[CODES]
    elif harm == "no JSON":
        files[ICONS] = "text"
    elif harm == "no icons":
        files[ICONS] = {}
    elif harm == "no SVG":
        files[ICONS] = {"icons": {"icon-0": {"body": "<rect"}}, "width": 1, "height": 1}
    elif harm == "flipped":
        files[ICONS] = random.Random(0).randbytes(30_000).hex()  # of a length, so that it breaks in the middle
    package = npm(files, tmp_path / "x.tgz")
    content = package.read_bytes()
    if harm == "no archive":
        package.write_bytes(b"PK" + content)
    elif harm == "torn":
        package.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        package.write_bytes(content[:9000] + bytes(255 - byte for byte in content[9000:]))
    with pytest.raises(DataError, match=r"x\.tgz") as caught:
        styles.redrawn(package, own)
    assert "\n" not in str(caught.value)


def test_no_link_is_followed_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "x.tgz"
    with tarfile.open(package, mode="w:gz") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(ICONS)
            link.type, link.linkname = kind, "/etc/hostname"
            archive.addfile(link)
        for name in (f"/{ICONS}", f"../{ICONS}", f"package/../../{ICONS}", "package/other.json"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataError, match=r"x\.tgz has no package/icons\.json"):
        archives.npm_files(package, (ICONS,))
    assert list(tmp_path.iterdir()) == [package]
    monkeypatch.setattr(archives, "MOST", 3)
    with pytest.raises(DataError, match="unpacks to more than"):
        archives.npm_files(npm({ICONS: "more than three bytes"}, package), (ICONS,))


def test_without_a_network_the_line_says_what_to_do(
    packages: dict[str, IconPackage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = IconPackage(Download(f"file://{tmp_path}/gone.tgz", "0" * 64, 3_000_000), "MIT")
    monkeypatch.setattr(styles, "PACKAGES", packages | {"noto": gone})
    with pytest.raises(DataError, match=r"gone\.tgz \(3 MB\) cannot be read.*put it into .*data/downloads") as caught:
        build_styles(tmp_path / "data" / "styles", limit=LIMIT)
    assert "\n" not in str(caught.value) and not (tmp_path / "data" / "styles").exists()


def test_packages_without_a_concept_of_the_demo_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(styles, "PACKAGES", write_packages([], tmp_path / "published"))
    with pytest.raises(DataError, match="no concept in common"):
        build_styles(tmp_path / "data" / "styles", limit=1)


def test_the_verb_makes_what_the_catalog_names(
    packages: dict[str, IconPackage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(concepts, "MOST_OF_A_KIND", LIMIT)
    data.demo(DataDemoOptions(runs=tmp_path, styles=True))
    assert "data/styles: questions.jsonl " in capsys.readouterr().out
    entry = catalog.benchmark("demo-styles")
    assert (tmp_path / "data" / entry.questions).is_file() and (tmp_path / "data" / entry.images / "noto").is_dir()
    with pytest.raises(SpecError, match="--photos and --styles"):
        data.demo(DataDemoOptions(runs=tmp_path, styles=True, photos=True))
