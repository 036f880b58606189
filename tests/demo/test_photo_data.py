"""The photo demo's data, from a few made stamps in Tux Paint's layout. No network.

pytest tests/demo/test_photo_data.py
"""

import io
import json
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from remora.data import locations
from remora.demo import archives, build_photos, concepts, photos, scenes, stamps
from remora.demo.archives import Download
from remora.demo.concepts import Concept
from remora.errors import DataError
from support.stamps import KIND_OF, KINDS, NAMES, write_stamps


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return write_stamps(tmp_path / "stamps")


def deb(shelf: Path, file: Path, data: str = "data.tar.xz", below: str = stamps.BELOW) -> Path:
    """The stamps as a Debian package."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as archive:
        archive.add(shelf, f"./{below}")
    return packed({"debian-binary": b"2.0\n", "control.tar.xz": b"odd", data: tar.getvalue()}, file)


def packed(members: dict[str, bytes], file: Path) -> Path:
    """An ar archive."""
    archive = archives.AR
    for name, content in members.items():
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        archive += b"\n" * (len(content) % 2)
    file.write_bytes(archive)
    return file


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(photos, "AMOUNTS", {"one": 2, "pair": 1, "some": 1})
    monkeypatch.setattr(photos, "VALIDATION", 3)
    monkeypatch.setattr(stamps, "INSTALLED", tmp_path / "nothing")


def records(folder: Path, name: str) -> list[dict]:
    text = (folder / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def test_a_package_and_its_folder_give_the_same_data(shelf: Path, tmp_path: Path) -> None:
    package = deb(shelf, tmp_path / "stamps.deb")
    one, two = (build_photos(tmp_path / name / "photos", given=given) for name, given in (("a", package), ("b", shelf)))
    assert one["sha256"] == two["sha256"] and one["stamps"] == two["stamps"]
    pictures = [sorted((tmp_path / name / "photos/images").rglob("*.png")) for name in "ab"]
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]]
    assert one["concepts"] == {"seen": {k: 3 for k in KINDS}, "unseen": {k: 1 for k in KINDS}}
    # Without --stamps, what was unpacked before is found.
    assert build_photos(tmp_path / "a/photos")["stamps"] == one["stamps"]
    again = build_photos(tmp_path / "a/again")
    assert again["sha256"] == one["sha256"]


def test_no_training_file_names_or_shows_what_is_held_out(shelf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "photos"
    build_photos(folder, given=shelf)
    _, unseen = concepts.split(list(stamps.cutouts(shelf)), 0)
    said, shown = "", set()
    for name in ("captions.json", "language.json", "finetune.json"):
        for row in records(folder, name):
            said += "\n".join(turn["value"] for turn in row["conversations"])
            shown.add(row.get("image"))
            assert (folder / "images" / row["image"]).is_file() if "image" in row else name == "language.json"
    assert concepts.mention([c.name for c in unseen]).search(said) is None
    for name in ("val.jsonl", "scenes.jsonl", "unseen.jsonl"):
        lines = records(folder, name)
        assert lines and not {line["image"] for line in lines} & shown
        assert all((folder / "images" / line["image"]).is_file() for line in lines)
    asked = {line["image"].rsplit("-", 2)[0] for line in records(folder, "unseen.jsonl")}
    assert asked == {f"unseen/{c.code}" for c in unseen}


def test_only_photographs_with_a_name_are_things(shelf: Path) -> None:
    found = stamps.cutouts(shelf)
    assert sorted(c.name for c in found) == sorted(name for names in NAMES.values() for name in names)
    assert {c.name: c.kind for c in found}["plum"] == "fruit"
    (shelf / "food/fruit" / "all" / "plum.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"plum\.png cannot be read"):
        stamps.cutouts(shelf)


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        *(("A duck.", "duck"), ("An Owl!", "owl"), ("The Moon.", "moon"), ("Un café", "un cafe"), ("", None)),
        *(
            ("A duck, and a goose.", None),
            ("A bird that sings well.", None),
            ("5 coins", None),
            ("Eat your fig!", None),
        ),
    ],
)
def test_a_caption_is_a_name_or_nothing(caption: str, name: str | None) -> None:
    assert stamps.spoken(caption) == name


def things() -> list[Concept]:
    return [Concept(name, name, KIND_OF[kind], Path()) for kind, names in NAMES.items() for name in names]


def test_a_scene_shows_what_its_questions_say() -> None:
    duck, apple, *_ = (c for c in things() if c.name in ("duck", "apple"))
    red, green = (Image.new("RGBA", (30, 30), c) for c in ("#ff0000", "#00ff00"))
    pair = scenes.Scene("seen/x-pair-0", (apple, duck))
    picture = scenes.composed(pair, {duck: red, apple: green}, 0)
    where = {pixel: [x for x in range(96) for y in range(96) if picture.getpixel((x, y)) == pixel]
             for pixel in ((255, 0, 0), (0, 255, 0))}  # fmt: skip
    assert max(where[0, 255, 0]) < 48 <= min(where[255, 0, 0])
    assert pair.caption(KINDS) == "an apple on the left, a duck on the right"
    sides = scenes.Examiner(things(), KINDS, by_name=True).questions(pair, random.Random(1))
    answers = {q.text: q.answer for q in sides}
    right = {"What is on the left?": "apple", "What is on the right?": "duck"}
    right |= {"What kind of thing is on the left?": "fruit", "What kind of thing is on the right?": "bird"}
    assert {text: right[text] for text in answers if text in right} == {
        text: answer for text, answer in answers.items() if text in right
    }
    assert answers["How many things are there?"] == "two" and len(answers) == 4
    three = scenes.Scene("seen/x-some-0", (duck,) * 3)
    assert three.caption(KINDS) == "three: duck, a bird"


def test_half_of_what_is_asked_for_is_there() -> None:
    every = scenes.scenes(things(), "train", {"one": 40, "pair": 40}, 0)
    for by_name in (True, False):
        examiner = scenes.Examiner(things(), KINDS, by_name=by_name)
        asked = [(s, q) for s in every for q in examiner.questions(s, random.Random(s.name)) if q.category == "yes/no"]
        for scene, question in asked:
            there = {t.name for t in scene.things} | {t.kind for t in scene.things}
            assert (question.text.split()[-1].rstrip("?") in there) == (question.answer == "yes"), question
        assert 0.4 < sum(q.answer == "yes" for _, q in asked) / len(asked) < 0.6


@pytest.mark.parametrize("harm", ["no archive", "torn", "no data", "zstd", "elsewhere", "no xz"])
def test_a_bad_package_is_refused_in_one_line(shelf: Path, tmp_path: Path, harm: str) -> None:
    package = deb(shelf, tmp_path / "x.deb", "data.tar.zst" if harm == "zstd" else "data.tar.xz",
                  "usr/share/doc" if harm == "elsewhere" else stamps.BELOW)  # fmt: skip
    content = package.read_bytes()
    if harm == "no archive":
        package.write_bytes(b"PK" + content)
    elif harm == "torn":
        package.write_bytes(content[:-200])
    elif harm == "no data":
        package.write_bytes(content[: content.index(b"data.tar")])
    elif harm == "no xz":
        package.write_bytes(content.replace(b"\xfd7zXZ", b"\xfd7zXY"))
    with pytest.raises(DataError) as caught:
        build_photos(tmp_path / "data" / "photos", given=package)
    assert "\n" not in str(caught.value) and "x.deb" in str(caught.value)
    assert not list((tmp_path / "data").glob("*"))


def test_nothing_is_unpacked_outside_the_folder(tmp_path: Path) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as archive:
        link = tarfile.TarInfo("in/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        for member in (link, tarfile.TarInfo("/in/out.png"), tarfile.TarInfo("in/../../out.png")):
            archive.addfile(member, io.BytesIO())
    package = packed({"data.tar.xz": tar.getvalue()}, tmp_path / "x.deb")
    with pytest.raises(DataError, match=r"x\.deb cannot be unpacked"):
        archives.unpack_deb(package, "in", (".png",), tmp_path / "new")
    assert not list(tmp_path.rglob("out.png")) and not list(tmp_path.rglob("link.png"))


def test_a_download_is_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "x.deb"
    source.write_bytes(b"content")
    good = Download(f"file://{source}", "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73", 7)
    monkeypatch.setattr(locations, "PAUSE", 0.0)
    heard: list[tuple[str, int, int]] = []
    kept = archives.fetched(good, tmp_path / "kept", "", lambda *now: heard.append(now))
    assert kept.read_bytes() == b"content" and heard == [("x.deb", 7, 7)]
    with pytest.raises(DataError, match="received 0 of 1 bytes"):
        archives.fetched(replace(good, size=8), tmp_path / "short", "", lambda *now: None)
    source.unlink()
    assert archives.fetched(good, tmp_path / "kept", "", lambda *now: None) == kept
    kept.write_bytes(b"other")
    with pytest.raises(DataError, match="has the sha256"):
        archives.fetched(good, tmp_path / "kept", "", lambda *now: None)
    kept.unlink()
    with pytest.raises(DataError, match=r"cannot be read: .*; next: ask a friend"):
        archives.fetched(good, tmp_path / "kept", "ask a friend", lambda *now: None)
    assert not list((tmp_path / "kept").iterdir())


def test_without_stamps_the_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Download(f"file://{tmp_path}/gone.deb", "0" * 64, 161_000_000)
    monkeypatch.setattr(stamps, "PACKAGE", gone)
    with pytest.raises(DataError, match=r"\(161 MB\) cannot be read.*apt install tuxpaint-stamps-default.*--stamps"):
        build_photos(tmp_path / "photos")
    with pytest.raises(DataError, match=r"--stamps .*nowhere.deb: there is no such file"):
        build_photos(tmp_path / "photos", given=tmp_path / "nowhere.deb")
