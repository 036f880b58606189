"""Files that are not what their name says, encodings, and JSON's pitfalls: refused with advice, or read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tracemalloc

import pytest
from hurt import llava, png

from remora.data.check import check_dataset
from remora.data.conversation import short
from remora.data.sources import find_source
from remora.data.sources import llava as llava_source
from remora.errors import DataError

RECORDS = [llava(i) for i in range(3)]
TEXT = json.dumps(RECORDS, ensure_ascii=False)
FOREIGN = {
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
        "Git LFS pointer.*git lfs pull",
    ),
    "a page": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", r"a web page \(HTML\).*download it again"),
    "gzip": (gzip.compress(TEXT.encode()), "gzip file.*gunzip"),
    "bzip2": (bz2.compress(TEXT.encode()), "bzip2 file"),
    "xz": (lzma.compress(TEXT.encode()), "an xz file"),
    "zip": (b"PK\x03\x04" + bytes(40), "zip archive.*unzip"),
    "UTF-16": (TEXT.encode("utf-16"), "is UTF-16LE, not UTF-8; next: iconv -f UTF-16LE -t UTF-8"),
    "UTF-16 without a mark": (TEXT.encode("utf-16-be"), "UTF-16BE"),
    "UTF-32": (b"\xff\xfe\0\0" + TEXT.encode("utf-32-le"), "UTF-32LE"),
    "a picture": (png(1), "is a picture"),
    "RAR": (b"Rar!\x1a\x07\x01\0" + bytes(40), "RAR archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(40), "7z archive"),
}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.parquet", "a.arrow", "a.tar", "metadata.jsonl"])
@pytest.mark.parametrize(("content", "why"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_another_kind_is_named_with_the_way_out(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    binary = name.endswith((".parquet", ".arrow", ".tar"))
    with pytest.raises(DataError, match="dataset file" if binary and "UTF" in why else why) as caught:
        check_dataset(str(tmp_path / name), str(tmp_path))
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_parquet_by_another_name_and_compressed_names(tmp_path):
    (tmp_path / "a.json").write_bytes(b"PAR1" + bytes(40))
    with pytest.raises(DataError, match=r"a Parquet file, not JSON: name it \.parquet"):
        check_dataset(str(tmp_path / "a.json"), str(tmp_path))
    for name in ("a.json.gz", "a.jsonl.zst", "a.csv.zip"):
        with pytest.raises(DataError, match="compressed; next: unpack it"):
            find_source(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\n  "])
def test_lists_and_lines_are_known_by_their_first_characters(tmp_path, name, lines, mark):
    text = "\r\n".join(map(json.dumps, RECORDS)) if lines else json.dumps(RECORDS, indent=1)
    (tmp_path / name).write_bytes(mark + text.encode())
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    report = check_dataset(str(tmp_path / name), str(tmp_path))
    assert (report.records, report.pictures, report.fatal) == (3, 3, 0)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_latin_1_is_named_as_what_it_is(tmp_path, name):
    said = [{"from": "human", "value": "Café?"}, {"from": "gpt", "value": "Oui"}]
    text = {"a.csv": "image,text\na.png,Café", "a.json": json.dumps([{"conversations": said}], ensure_ascii=False)}
    (tmp_path / name).write_bytes(text.get(name, text["a.json"][1:-1]).encode("latin-1"))
    report = check_dataset(str(tmp_path / name), str(tmp_path))
    assert report.counts == {"not-unicode": 1}
    assert "the byte 0xe9, so the file is not UTF-8 but Latin-1" in report.examples["not-unicode"][0]
    half = json.dumps([{"conversations": [{"from": "human", "value": "\ud83d"}, said[1]]}])
    (tmp_path / "b.json").write_text(half)
    report = check_dataset(str(tmp_path / "b.json"), str(tmp_path))
    assert "a lone surrogate" in report.examples["not-unicode"][0]


def test_a_key_that_stands_twice_is_refused_and_long_numbers_are_read(tmp_path):
    turns = '"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]'
    text = f'[{{{turns}, "image": "a.png", "image": "b.png"}}, {{"id": {"9" * 5000}, "x": NaN, "y": 1e999, {turns}}}]'
    (tmp_path / "a.json").write_text(text)
    report = check_dataset(str(tmp_path / "a.json"), str(tmp_path))
    assert report.counts == {"duplicate-key": 1} and report.records == 2
    assert "the key 'image' is in one mapping twice" in report.examples["duplicate-key"][0]


@pytest.mark.parametrize("depth", [300, 900, 1100, 100_000])
@pytest.mark.parametrize("where", ["value", "image", "id", "x"])
def test_deep_nesting_is_refused_in_one_line(tmp_path, depth, where):
    deep = "[" * depth + "]" * depth
    values = {"value": '"a"', "image": "[]", "id": "1", "x": "1", where: deep}
    turns = f'[{{"from": "human", "value": {values["value"]}}}, {{"from": "gpt", "value": "b"}}]'
    record = f'{{"conversations": {turns}, "image": {values["image"]}, "id": {values["id"]}, "x": {values["x"]}}}'
    for name, text in (("a.json", f"[{record}]"), ("a.jsonl", record)):
        (tmp_path / name).write_text(text)
        try:
            report = check_dataset(str(tmp_path / name), str(tmp_path))
        except DataError as e:
            assert "nested too deeply" in str(e)
        else:
            assert report.records == 1 and all("\n" not in e for shown in report.examples.values() for e in shown)


def test_a_large_value_is_not_printed_whole(tmp_path):
    record = {"conversations": [{"from": "x" * 50_000, "value": "a"}], "image": ["y" * 50_000] * 100}
    (tmp_path / "a.json").write_text(json.dumps([record]))
    report = check_dataset(str(tmp_path / "a.json"), str(tmp_path))
    assert sum(len(e) for shown in report.examples.values() for e in shown) < 2_000
    assert short("a" * 300) == "'" + "a" * 79 + "… (300 characters)" and short([1]) == "[1]" and short(b"a") == "b'a'"


def test_blanks_in_a_header_are_no_part_of_names_and_cells(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "a.csv").write_text('image, question , answer\na.png, "What, now?", red\n')
    source = find_source(str(tmp_path / "a.csv"))
    (raw,) = (raw for shard in source.shards() for raw in source.read(shard))
    assert [m["value"] for m in raw.record["conversations"]] == ["<image>\nWhat, now?", "red"]
    assert check_dataset(str(tmp_path / "a.csv"), str(tmp_path)).fatal == 0
    (tmp_path / "b.csv").write_text("image;question;answer\na.png;What?;red\n")
    with pytest.raises(DataError, match="the one cell 'image;question;answer', separated by ';'; next: write it with"):
        check_dataset(str(tmp_path / "b.csv"), str(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.csv", "image\tcaption\na.png\tx\n", "next: name it .tsv"),
        ("a.tsv", "image,caption\na.png,x\n", "next: name it .csv"),
        ("a.csv", "image,caption\ra.png,x\r", "its lines end in CR only; next: tr"),
        ("a.JSON", TEXT, r"rename it to end in \.json"),
        ("a.jsonl", json.dumps(RECORDS[0], indent=1), "it is a mapping over several lines"),
        ("a.json", "image,caption\na.png,x\n", "here is 'image,caption"),
        ("a.json", "\0" * 257 + "ustar" + "\0" * 250, "is a tar, not JSON: name it .tar"),
    ],
)
def test_a_file_of_another_shape_is_named_with_the_way_out(tmp_path, name, text, why):
    (tmp_path / name).write_bytes(text.encode())
    with pytest.raises(DataError, match=why) as caught:
        check_dataset(str(tmp_path / name), str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_windows_path_says_what_separates_folders(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([RECORDS[0] | {"image": "x\\0.png"}]))
    report = check_dataset(str(tmp_path / "a.json"), str(tmp_path))
    assert "folders are separated by /" in report.examples["missing-image"][0]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_memory_follows_a_stretch_of_the_file_not_the_file(tmp_path, name, monkeypatch):
    """A worker holds one shard: its bytes, its text and a record of it. Here a shard is 128 KiB, the file 6 MiB."""
    monkeypatch.setattr(llava_source, "SHARD", 1 << 17)
    monkeypatch.setattr(llava_source, "BLOCK", 1 << 15)
    record = json.dumps({"id": 1, "conversations": RECORDS[0]["conversations"][1:] * 10, "x": "é" * 4_000})
    text = "[" + ",\n".join([record] * 260) + "]" if name == "a.json" else f"{record}\n" * 260
    (tmp_path / name).write_text(text)
    assert len(text) > 6 << 20
    source = find_source(str(tmp_path / name))
    tracemalloc.start()
    try:
        assert sum(1 for shard in source.shards() for _ in source.read(shard)) == 260
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
