"""Samples of a tar: pictures by the record's names, else by number. Other members are reported."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from hurt import png, write_tar

from remora.data.check import check_dataset
from remora.data.index_builder import open_dataset
from remora.data.sources import find_source, tar
from remora.data.sources.base import Raw
from remora.errors import DataError


def conversation(pictures: int, **more) -> bytes:
    said = [{"from": "human", "value": "<image>" * pictures + "Which?"}, {"from": "gpt", "value": "b"}]
    return json.dumps({"conversations": said, **more}).encode()


def read(file: Path) -> list[Raw]:
    source, out = find_source(str(file)), []
    for shard in source.shards():
        assert shard.first == len(out)
        out += source.read(shard)
    return out


def shades(raw: Raw) -> list[int]:
    assert raw.flaws() == [], raw
    return [next(s for s in range(256) if png(s) == p.read()) for p in raw.pictures]


@pytest.fixture(params=[64 << 20, 1])
def packed(tmp_path, monkeypatch, request):
    """Writes members sorted by name, as `tar --sort=name`, or as they are given; shards of all and of one sample."""
    monkeypatch.setattr(tar, "SHARD", request.param)

    def pack(members: dict[str, bytes], ordered: bool = True) -> list[Raw]:
        write_tar(tmp_path / "a.tar", sorted(members.items()) if ordered else list(members.items()))
        return read(tmp_path / "a.tar")

    return pack


def test_pictures_stand_in_the_order_of_the_records_names(packed):
    names = [f"0.{i}.png" for i in range(12)]
    members = {name: png(i) for i, name in enumerate(names)}
    (raw,) = packed(members | {"0.json": conversation(12, image=names)})
    assert shades(raw) == list(range(12))
    (raw,) = packed(members | {"0.json": conversation(12, images=names[::-1])})
    assert shades(raw) == list(range(11, -1, -1))
    (raw,) = packed(members | {"0.json": conversation(1, image="0.7.png")})
    assert shades(raw) == [7] and raw.unread == ("*.N.png",) * 11


def test_without_names_numbers_sort_as_numbers(packed):
    members = {f"0.{i}.png": png(i) for i in range(12)}
    (raw,) = packed(members | {"0.json": conversation(12)})
    assert shades(raw) == list(range(12))
    chat = {"messages": [{"role": "user", "content": [{"type": "image"}] * 12}, {"role": "assistant", "content": "b"}]}
    (raw,) = packed(members | {"0.json": json.dumps(chat).encode()})
    assert shades(raw) == list(range(12))


def test_names_are_found_by_their_last_part_and_from_the_folder(packed):
    for name in ("0.png", "./x/0.png", "x/0.png", "coco/train2017/0.png"):
        (raw,) = packed({"x/0.png": png(3), "x/0.json": conversation(1, image=name)})
        assert shades(raw) == [3]
    (raw,) = packed({"0.png": png(3), "0.json": conversation(1, image="other.png")})
    ((kind, why),) = raw.flaws()
    assert kind == "missing-image" and "its .json names 'other.png'; the sample's pictures are '0.png'" in why
    (raw,) = packed({"0.json": conversation(1, image="other.png")})
    assert raw.flaws() == [] and raw.pictures is None and raw.record["image"] == "other.png"


def test_a_mask_is_no_second_picture_and_is_told(packed):
    first, second = packed({"0.jpg": png(1), "0.mask.png": png(2), "0.txt": b"a", "1.png": png(3), "1.txt": b"b"})
    assert shades(first) == [1] and first.unread == ("*.mask.png",)
    assert shades(second) == [3] and second.unread == ()


def test_names_with_dots_are_samples_of_their_own(packed):
    raws = packed({"a.jpg": png(1), "a.txt": b"one", "a.v2.jpg": png(2), "a.v2.txt": b"two"})
    assert [(r.record["id"], shades(r)) for r in raws] == [("a", [1]), ("a.v2", [2])]
    (raw,) = packed({"2024.01.05.jpg": png(1), "2024.01.05.txt": b"one"})
    assert (raw.record["id"], shades(raw)) == ("2024.01.05", [1])
    raws = packed({"2024.01.05.jpg": png(1), "2024.01.05.txt": b"one", "2024.02.jpg": png(2), "2024.02.txt": b"two"})
    assert [(r.record["id"], shades(r)) for r in raws] == [("2024.01.05", [1]), ("2024.02", [2])]
    (raw,) = packed({"0.jpg": png(1), "0.json": b'{"caption": "a"}', "0.meta.json": b"{}", "0.ocr.txt": b"x"})
    assert shades(raw) == [1] and raw.unread == ("*.meta.json", "*.ocr.txt")


def test_every_member_is_read_or_told(packed, tmp_path):
    loose = {"A": b"", ".hidden": b"", "0.cls": b"1", "0.jpg": png(1), "0.txt": b"a", "1.jpg": png(2), "1.txt": b"b"}
    raws = packed(loose | {"z": b""}, ordered=False)
    assert [r.unread for r in raws] == [("*.cls", "*.a", ".hidden"), ("*.z",)]
    assert sum(check_dataset(str(tmp_path / "a.tar"), str(tmp_path)).unread.values()) == 4


def test_what_macos_leaves_and_videos_are_told_as_what_they_are(packed):
    loose = {"._0.jpg": b"", "0.jpg": png(1), "0.mp4": b"", "0.txt": b"a", "__MACOSX/._0.jpg": b"", ".DS_Store": b""}
    (raw,) = packed(loose, ordered=False)
    assert shades(raw) == [1] and set(raw.unread) == {"._*", "*.mp4", ".DS_Store"}


def test_a_caption_that_the_txt_contradicts_is_told(packed):
    same, other = packed(
        {"0.jpg": png(1), "0.json": b'{"caption": "a"}', "0.txt": b"a\n"}
        | {"1.jpg": png(1), "1.json": b'{"caption": "a"}', "1.txt": b"\xef\xbb\xbfb"}
    )
    assert same.unread == () and other.unread == ("caption",)
    assert other.record["conversations"][1]["value"] == "b"  # without the mark of its encoding


def test_a_sample_that_is_none_names_what_it_has(packed):
    caption, wide = packed({"0.heic": b"x", "0.txt": b"a", "1.jpg": png(1), "1.txt": "a".encode("utf-16")})
    assert "a caption and no picture; it has '0.heic', '0.txt'" in caption.flaws()[0][1]
    assert wide.flaws()[0][0] == "not-unicode" and "is UTF-16, not UTF-8; next: iconv" in wide.flaws()[0][1]


def test_tars_that_were_joined_are_refused(tmp_path):
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", [(f"{name}.png", png(1)), (f"{name}.txt", b"a")])
    (tmp_path / "c.tar").write_bytes((tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes())
    with pytest.raises(DataError, match=r"there is data after the tar's end.*next: tar -xif"):
        check_dataset(str(tmp_path / "c.tar"), str(tmp_path))


def test_hidden_files_are_no_shards(tmp_path):
    """macOS leaves a `._x.tar` beside each `x.tar`."""
    write_tar(tmp_path / "a.tar", [("0.png", png(1)), ("0.txt", b"a")])
    (tmp_path / "._a.tar").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    for location in (str(tmp_path), f"{tmp_path}/*.tar"):
        assert check_dataset(location, str(tmp_path)).records == 1
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,a\n")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "b"}\n')
    with pytest.raises(DataError, match=r"has a metadata\.jsonl and a metadata\.csv; keep one"):
        find_source(str(tmp_path))


def test_names_that_would_leave_a_folder_and_links_are_harmless(packed, tmp_path):
    (raw, other) = packed({"/etc/0.png": png(1), "/etc/0.txt": b"a", "../../1.png": png(2), "../../1.txt": b"b"}, False)
    assert shades(raw) == [1] and shades(other) == [2]
    with tarfile.open(tmp_path / "b.tar", "w") as out:
        for name, content in (("0.txt", b"a"), ("1.txt", b"b"), ("1.png", png(1))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name == "1.txt":
                link = tarfile.TarInfo("0.png")
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
                out.addfile(link)
            out.addfile(member, io.BytesIO(content))
    link, good = read(tmp_path / "b.tar")
    assert "'0.png' is a link" in link.flaws()[0][1] and shades(good) == [1]
    (tmp_path / "empty.tar").write_bytes(bytes(10240))
    with pytest.raises(DataError, match="no record in it"):
        check_dataset(str(tmp_path / "empty.tar"), str(tmp_path))


def test_an_index_has_the_pictures_in_the_records_order(tmp_path):
    names = [f"0.{i}.png" for i in range(12)]
    members = {name: png(i) for i, name in enumerate(names)} | {"0.json": conversation(12, image=names)}
    write_tar(tmp_path / "a.tar", sorted(members.items()))
    place = str(tmp_path / "a.tar")
    (sample,) = open_dataset(find_source(place), place, str(tmp_path), tmp_path / "i", spread=map)
    assert [p.open().getpixel((0, 0))[0] for p in sample.images] == list(range(12))
