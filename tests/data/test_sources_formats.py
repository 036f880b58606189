"""Parquet, Arrow, tar shards and tables: every layout gives the expected LLaVA records, locally and at URLs."""

from __future__ import annotations

import json
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hurt import embedded, llava, png, write_all, write_saved, write_tar

from remora.data.check import check_dataset
from remora.data.conversation import image_field, parse_turns
from remora.data.index_builder import open_dataset
from remora.data.sources import Raw, arrow, captions, find_source, parquet, picture_folder, tar
from remora.errors import DataError


def read(location: Path | str) -> list[Raw]:
    """All records; checks that they are numbered in order."""
    source, out, counts = find_source(str(location)), [], {}
    for shard in source.shards():
        assert shard.first == counts.get(shard.file, 0) and shard.file in source.files
        part = list(source.read(shard))
        assert part
        counts[shard.file] = shard.first + len(part)
        out += part
    return out


def said(raw: Raw) -> list[str]:
    assert not raw.flaws(), raw
    return [m["value"] for m in raw.record["conversations"]]


def kinds(raw: Raw) -> list[str]:
    return [kind for kind, _ in raw.flaws()]


def table(file: Path, rows: list[dict], **how) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), file, **how)
    return file


@pytest.fixture
def small(monkeypatch):
    """Shards of one record or a few."""
    for module in (parquet, arrow, tar, captions):
        monkeypatch.setattr(module, "SHARD", 200)


NAMES = ["a.json", "a.jsonl", "names.parquet", "held.parquet", "fine.parquet", "saved"]
NAMES += ["a.tar", "captions.tar", "a.csv", "a.tsv", "imagefolder"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_read_in_shards_as_whole(tmp_path, monkeypatch, name):
    location = write_all(tmp_path, 7)[name]
    whole = read(location)
    assert len(whole) == 7
    report = check_dataset(str(location), str(tmp_path))
    assert (report.records, report.pictures, report.counts) == (7, 7, {})
    for module in (parquet, arrow, tar, captions):
        monkeypatch.setattr(module, "SHARD", 100)
    assert read(location) == whole
    if name not in ("a.json", "a.jsonl", "imagefolder"):
        assert len(list(find_source(str(location)).shards())) > 1
    dataset = open_dataset(find_source(str(location)), str(location), str(tmp_path), tmp_path / "i", spread=map)
    assert sorted(s.images[0].open().getpixel((0, 0))[0] for s in dataset) == list(range(7))
    assert sorted(s.turns[1].text for s in dataset) == [f"thing {i}" for i in range(7)]


def test_shards_of_all_formats_make_one_content(tmp_path):
    """If id and question are equal, so is the digest."""
    digests = {}
    for name, location in write_all(tmp_path).items():
        dataset = open_dataset(find_source(str(location)), str(location), str(tmp_path), tmp_path / "i", spread=map)
        digests.setdefault(dataset.digest, []).append(name)
    assert ["a.json", "a.jsonl", "names.parquet", "held.parquet", "a.tar"] in digests.values()
    assert ["captions.tar"] in digests.values() and ["a.csv", "a.tsv"] in digests.values()


LAYOUTS = {
    "conversations, no picture": ({"conversations": llava(0)["conversations"][1:]}, None),
    "image path": ({**llava(1)}, ["<image>\nWhat is 1?", "thing 1"]),
    "image bytes": ({**llava(1), "image": png(1)}, ["<image>\nWhat is 1?", "thing 1"]),
    "image struct": ({**llava(1), "image": embedded(1)}, ["<image>\nWhat is 1?", "thing 1"]),
    "image struct of a path": (
        {**llava(1), "image": {"bytes": None, "path": "x.png"}},
        ["<image>\nWhat is 1?", "thing 1"],
    ),
    "images": ({"texts": [{"user": "a", "assistant": "b"}], "images": [png(1), png(2)]}, ["<image><image>\na", "b"]),
    "texts that show": (
        {"texts": [{"user": "a <image>", "assistant": "b"}], "images": [embedded(1)]},
        ["a <image>", "b"],
    ),
    "texts alone": ({"texts": [{"user": "a", "assistant": "b"}] * 2}, ["a", "b", "a", "b"]),
    "caption": ({"image": embedded(1), "caption": "b"}, ["<image>", "b"]),
    "text": ({"image": "x.png", "text": "b"}, ["<image>", "b"]),
    "question": ({"image": "x.png", "question": "a", "answer": "b", "extra": 1}, ["<image>\na", "b"]),
    "question alone": ({"question": "a", "answer": "b"}, ["a", "b"]),
}


@pytest.mark.parametrize(("row", "turns"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_row_becomes_a_record(tmp_path, row, turns):
    (raw,) = read(table(tmp_path / "a.parquet", [row]))
    if turns is None:
        assert "turn-order" in kinds(raw)
        return
    assert said(raw) == turns
    shown = sum(t.images for t in parse_turns(raw.record))
    assert shown == len(raw.pictures if raw.pictures is not None else image_field(raw.record))


WRONG = {
    "no text": ({"image": embedded(1), "text": None}, {"image": embedded(1), "text": "b"}, ["no-text"]),
    "neither bytes nor path": (
        {**llava(0), "image": {"bytes": None, "path": None}},
        {**llava(0), "image": embedded(0)},
        ["image-field"],
    ),
    "bytes and names": ({**llava(0), "image": [embedded(0), {"bytes": None, "path": "b"}]}, None, ["image-field"]),
    "conversations are a number": ({"conversations": 5}, None, ["no-conversation"]),
    "conversations are text": ({"conversations": "a"}, None, ["no-conversation"]),
    "turns are numbers": ({"conversations": [1, 2]}, None, ["unknown-role"]),
    "texts are text": ({"texts": "a", "images": [embedded(0)]}, None, ["no-conversation"]),
    "no texts": (
        {"texts": [], "images": [embedded(0)]},
        {"texts": [{"user": "a", "assistant": "b"}], "images": []},
        ["no-answer"],
    ),
    "image is a number": ({**llava(0), "image": 5}, None, ["image-field"]),
    "answer is a list": ({"question": "a", "answer": ["b"]}, None, ["no-text"]),
    "no picture": ({"image": None, "text": "b"}, {"image": "a.png", "text": "b"}, ["tag-without-image"]),
}


@pytest.mark.parametrize(("row", "other", "why"), WRONG.values(), ids=WRONG)
def test_a_row_of_wrong_types_is_named(tmp_path, row, other, why):
    file = table(tmp_path / "a.parquet", [row] + [other] * (other is not None))
    assert kinds(read(file)[0]) == why
    report = check_dataset(str(file), str(tmp_path))
    assert set(report.counts) >= set(why) and f"{file}: record 0" in report.examples[why[0]][0]


def refused(location: Path | str, why: str) -> None:
    with pytest.raises(DataError, match=why) as caught:
        read(location)
    assert "\n" not in str(caught.value)


def test_a_table_without_the_columns_is_refused_with_what_it_has(tmp_path):
    refused(
        table(tmp_path / "a.parquet", [{"foo": 1, "text": "b"}]),
        r"a\.parquet: its columns \('foo', 'text'\) make no record",
    )
    (tmp_path / "a.csv").write_text("image,label\n1,2\n")
    refused(tmp_path / "a.csv", r"a\.csv: its columns \('image', 'label'\) make no record")
    (tmp_path / "b.csv").write_text("question,answer\n1,2\n")
    refused(tmp_path / "b.csv", r"b\.csv: its header \('question', 'answer'\) needs image")
    (tmp_path / "c.csv").write_text("image,text,text\n1,2,3\n")
    refused(tmp_path / "c.csv", "duplicate names")
    (tmp_path / "d.csv").write_text("")
    refused(tmp_path / "d.csv", r"its columns \(none\) make no record")


def test_tables_of_words_keep_quotes_breaks_and_marks(tmp_path, small):
    text = '\ufeffid,path,caption\r\n7,1.png,"a ""b"",\r\nc"\r\n\r\n,2.png,5" pipe\n8,3.png\n9,4.png,a,b\n'
    text += "10,,x\n11,5.png,\n"
    (tmp_path / "a.csv").write_bytes(text.encode() + b"12,6.png,\xff\n")
    raws = read(tmp_path / "a.csv")
    assert said(raws[0]) == ["<image>", 'a "b",\r\nc'] and raws[0].record["id"] == "7"
    assert said(raws[1]) == ["<image>", '5" pipe'] and raws[1].record.get("id") is None
    assert [kinds(r) for r in raws[2:]] == [
        ["no-text"],
        ["no-conversation"],
        ["tag-without-image"],
        ["empty-answer"],
        ["not-unicode"],
    ]
    assert raws[3].flaws()[0][1].startswith("a row of 4 cells, the header has 3")
    (tmp_path / "b.csv").write_text('image,text\n1.png,"open\n')
    refused(tmp_path / "b.csv", r"b\.csv: byte 23: unexpected end of data")


def test_an_imagefolder_names_pictures_from_its_own_folder(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "metadata.csv").write_text("file_name,text\na/1.png,b\n")
    assert read(folder)[0].record["image"] == [str(folder / "a/1.png")]
    (folder / "metadata.csv").unlink()
    lines = [{"file_name": "a/2.png", "text": "b"}, {"file_name": "c.png"}, 5]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nno\n")
    raws = read(folder)
    assert raws[0].record["image"] == [str(folder / "a/2.png")] and said(raws[0]) == ["<image>", "b"]
    assert [kinds(r) for r in raws[1:]] == [["no-conversation"]] * 3


def test_members_of_a_tar_make_samples(tmp_path, small):
    record = json.dumps({**llava(0), "image": "set/0.PNG"}).encode()
    two = {"conversations": [{"from": "human", "value": "<image><image>"}, {"from": "gpt", "value": "b"}]}
    write_tar(
        tmp_path / "a.tar",
        [
            ("./x/.hidden.png", b""),
            ("README", b"no kind"),
            ("x/0.json", record),
            ("x/0.PNG", png(0)),
            ("x/0.cls", b"5"),
            ("x/1.txt", b"a caption"),
            ("x/1.jpg", png(1)),
            ("x/2.json", b'{"caption": "another", "url": "u"}'),
            ("x/2.png", png(2)),
            ("x/3.json", json.dumps(two).encode()),
            ("x/3.0.png", png(3)),
            ("x/3.1.png", png(4)),
            ("y" * 200 + ".txt", b"long"),
            ("y" * 200 + ".png", png(5)),
            ("x/4.json", json.dumps({**llava(0), "image": "0.png"}).encode()),
        ],
    )
    raws = read(tmp_path / "a.tar")
    assert [said(r)[-1] for r in raws] == ["thing 0", "a caption", "another", "b", "long", "thing 0"]
    assert said(raws[1])[0] == "<image>" and raws[1].record["id"] == "x/1"
    assert [[p.read() for p in r.pictures] for r in raws[:5]] == [
        [png(0)],
        [png(1)],
        [png(2)],
        [png(3), png(4)],
        [png(5)],
    ]
    assert [r.unread for r in raws] == [("*.cls", ".hidden.png", "*.readme"), (), ("url",), (), (), ()]
    assert raws[5].pictures is None and raws[5].record["image"] == "0.png"


def test_half_samples_and_doubled_ones_are_named(tmp_path):
    broken = [("0.txt", b"a"), ("1.png", png(1)), ("2.png", png(1)), ("2.png", png(2)), ("2.txt", b"a")]
    broken += [("3.json", b"{"), ("4.json", b"[]"), ("5.json", b"[" * 100_000), ("6.txt", b"\xff"), ("6.png", png(1))]
    write_tar(tmp_path / "a.tar", broken)
    raws = read(tmp_path / "a.tar")
    whys = [
        "caption and no picture",
        "neither",
        "two members have the same name",
        "not valid JSON",
        "no record",
        "not valid",
    ]
    assert all(why in r.flaws()[0][1] for why, r in zip(whys, raws, strict=False))
    assert kinds(raws[6]) == ["not-unicode"] and len(raws) == 7
    write_tar(tmp_path / "b.tar", [("0.txt", b"a"), ("1.txt", b"a"), ("0.png", png(1)), ("1.png", png(1))])
    refused(tmp_path / "b.tar", r"b\.tar: members of sample '0' do not follow each other; .*--sort=name")


def test_a_cut_tar_and_a_compressed_one_are_refused(tmp_path):
    file = write_all(tmp_path)["captions.tar"]
    whole = file.read_bytes()
    for end, why in (
        (512, "end of data|truncated"),
        (1024 + 600, ""),
        (2048, "the tar is truncated"),
        (5 * 512 + 20, ""),
    ):
        (tmp_path / "b.tar").write_bytes(whole[:end])
        refused(tmp_path / "b.tar", f"unreadable dataset file: {tmp_path}/b.tar: .*{why}")
    (tmp_path / "b.tar").write_bytes(whole[:2048] + b"junk" * 128 + whole[2560:])
    refused(tmp_path / "b.tar", r"byte 2048: not a member")
    for name in ("a.tar.gz", "a.tgz"):
        refused(tmp_path / name, "compressed tar has no random access; next: gunzip")


def test_files_of_one_pattern_are_one_dataset_with_numbers_of_their_own(tmp_path):
    for i in range(12):
        write_tar(tmp_path / f"s-{i:03d}.tar", [(f"{i}.txt", b"w%d" % i), (f"{i}.png", png(i))])
    words = [f"w{i}" for i in range(12)]
    for pattern in ("s-{000..011}.tar", "s-*.tar", "s-0[01]?.tar", "s-{00,01}*.tar"):
        assert [said(r)[1] for r in read(tmp_path / pattern)] == words
    assert [said(r)[1] for r in read(tmp_path / "s-{009..011}.tar")] == words[9:]
    assert [said(r)[1] for r in read(tmp_path)] == words
    location = str(tmp_path / "s-*.tar")
    dataset = open_dataset(find_source(location), location, str(tmp_path), tmp_path / "index", spread=map)
    assert dataset.where(5) == f"{tmp_path}/s-005.tar: record 0"
    with pytest.raises(DataError, match=r"missing dataset file: .*s-012\.tar"):
        read(tmp_path / "s-{010..012}.tar")
    refused(tmp_path / "t-*.tar", "nothing matches")
    (tmp_path / "odd[1].json").write_text(json.dumps([llava(0)]))
    assert len(read(tmp_path / "odd[1].json")) == 1
    (tmp_path / "s-1.csv").write_text("")
    refused(tmp_path / "s-*", "or of several; supported")


def rows(start: int, count: int) -> list[dict]:
    return [{**llava(i), "image": embedded(i)} for i in range(start, start + count)]


def snapshot(folder: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        table(folder / name, rows(10 * i, 2))
    return folder


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (
            [
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002.parquet",
                "data/test-00000-of-00001.parquet",
            ],
            4,
        ),
        (["train-00000-of-00001-ab12.parquet"], 2),
        (["default/train/0000.parquet", "default/train/0001.parquet", "default/validation/0000.parquet"], 4),
        (["a.parquet", "b.parquet"], 4),
        (["data/test-00000-of-00001.parquet", ".cache/train-0.parquet"], 2),
    ],
)
def test_a_snapshot_of_a_hub_dataset_gives_its_split_train(tmp_path, names, chosen):
    assert len(read(snapshot(tmp_path / "set", names))) == chosen


def test_a_snapshot_of_several_is_refused_with_what_to_name(tmp_path):
    several = snapshot(tmp_path / "a", ["one/train-00000-of-00001.parquet", "two/train-00000-of-00001.parquet"])
    refused(several, r"2 configurations \(one, two\); give the folder of one")
    assert len(read(several / "two")) == 2
    splits = snapshot(tmp_path / "b", ["data/test-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"])
    refused(splits, r"the splits test, validation and no train; name one: .*<split>-\*\.parquet")
    assert len(read(f"{splits}/**/test-*.parquet")) == 2


def test_saved_datasets_and_dictionaries_of_them(tmp_path, small):
    write_saved(tmp_path / "one", rows(0, 5))
    assert [r.record["id"] for r in read(tmp_path / "one")] == ["s0", "s2", "s4", "s1", "s3"]
    for split in ("train", "test"):
        write_saved(tmp_path / "two" / split, rows(0, 3))
    (tmp_path / "two" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert len(read(tmp_path / "two")) == 3
    (tmp_path / "two" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    refused(tmp_path / "two", r"the splits \['test'\] and no train; give the folder of one")
    state = tmp_path / "one" / "state.json"
    for text in ("[]", "{}", '{"_data_files": [5]}', '{"_data_files": [{"filename": "x.txt"}]}', "{"):
        state.write_text(text)
        refused(tmp_path / "one", rf"{state}")


def test_folders_and_names_that_are_no_dataset_are_refused_with_what_to_do(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "1.JPG").write_bytes(b"")
    refused(tmp_path / "p", r"has only pictures; write a .*metadata\.csv with the columns file_name,text")
    (tmp_path / "q").mkdir()
    refused(tmp_path / "q", "no dataset is in that folder; supported: .json, .jsonl")
    (tmp_path / "q" / "train.json").write_text("[]")
    refused(tmp_path / "q", "a folder that holds train.json; give the path of a file")
    refused(
        tmp_path / "a.xlsx",
        r"no known format has such a name; supported: \.json, .*\.parquet, .*\.tar, .*metadata\.csv",
    )
    for name in ("a.parquet", "a.tar", "a.csv", "a.arrow", "metadata.jsonl", "a.json"):
        refused(tmp_path / name, f"missing dataset file: {tmp_path}/{name}")


@pytest.fixture
def memory():
    """An empty store in memory; its name ends as a hub's dataset does."""
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/", recursive=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_read_from_a_store(tmp_path, memory, name):
    """Files, folders and patterns at URLs: read as from a disk, and indexed with their pictures."""
    here = write_all(tmp_path / "set", 3)
    memory.put(str(tmp_path / "set"), "/set", recursive=True)
    location = f"memory://set/{name}"
    assert len(read(location)) == len(read(here[name])) == 3
    report = check_dataset(location, "memory://set")
    assert (report.records, report.pictures, report.counts) == (3, 3, {})
    dataset = open_dataset(find_source(location), location, "memory://set", tmp_path / "i", spread=map)
    assert sorted(s.images[0].open().getpixel((0, 0))[0] for s in dataset) == [0, 1, 2]


def test_patterns_and_snapshots_in_a_store(tmp_path, memory):
    snapshot(
        tmp_path / "hub",
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-0.parquet"],
    )
    memory.put(str(tmp_path / "hub"), "/hub", recursive=True)
    assert len(read("memory://hub")) == 4 and len(read("memory://hub/data/t*.parquet")) == 6
    assert picture_folder("memory://hub") == "memory://hub"
    assert picture_folder("memory://hub/data/test-0.parquet") == "memory://hub/data"
    refused("memory://nowhere", "no known format has such a name")
    refused("memory://hub/none-*.parquet", "nothing matches")


def test_a_hub_id_is_listed_as_its_repository(monkeypatch, tmp_path):
    """hf:// is huggingface_hub's; a folder in a repository's layout replaces its listing."""
    from huggingface_hub import HfFileSystem

    root = snapshot(tmp_path / "hub", ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"])
    repository = "datasets/owner/name@v1"

    def place(path: str) -> str:
        assert path.removeprefix("hf://").startswith(repository), path
        return str(root) + path.removeprefix("hf://").removeprefix(repository)

    def info(self, path, **_):
        at = Path(place(path))
        if not at.exists():
            raise FileNotFoundError(path)
        kind = "directory" if at.is_dir() else "file"
        return {"name": path.removeprefix("hf://"), "type": kind, "size": at.stat().st_size, "blob_id": "b"}

    def ls(self, path, detail=True, **_):
        names = [f"{path.rstrip('/')}/{p.name}" for p in sorted(Path(place(path)).iterdir())]
        return [info(self, name) for name in names] if detail else names

    monkeypatch.setattr(HfFileSystem, "info", info)
    monkeypatch.setattr(HfFileSystem, "ls", ls)
    monkeypatch.setattr(HfFileSystem, "isdir", lambda self, path: Path(place(path)).is_dir())
    for name in ("walk", "find", "glob"):
        monkeypatch.setattr(HfFileSystem, name, getattr(fsspec.AbstractFileSystem, name))
    monkeypatch.setattr(HfFileSystem, "_open", lambda self, path, mode="rb", **_: Path(place(path)).open(mode))  # noqa: SIM115
    location = f"hf://{repository}"
    source = find_source(location)
    assert source.files == tuple(f"{location}/data/train-{i:05d}-of-00002.parquet" for i in range(2))
    assert len(read(location)) == 4 and len(read(f"{location}/data")) == 4


class Ranged(SimpleHTTPRequestHandler):
    """A file server that honours one range, as object stores do."""

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404)
            return
        content, asked = file.read_bytes(), self.headers.get("Range")
        start, _, end = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        part = content[int(start) : int(end) + 1 if end else None]
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.wfile.write(part)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranged, directory=str(tmp_path))) as httpd:
        thread = Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_single_files_are_read_over_http(tmp_path, server):
    write_all(tmp_path, 3)
    for name in NAMES:
        if name in ("saved", "imagefolder"):
            continue
        location = f"{server}/{name}"
        assert len(read(location)) == 3, name
        report = check_dataset(location, server)
        assert (report.records, report.pictures, report.counts) == (3, 3, {}), (name, report)
    assert len(read(f"{server}/held.parquet?download=true")) == 3
    refused(f"{server}/none.parquet", r"missing dataset file: http.*none\.parquet")
    shutil.copy(tmp_path / "0.png", tmp_path / "broken.tar")
    refused(f"{server}/broken.tar", r"http.*broken\.tar is a picture, not a tar")


def test_a_store_that_fails_in_its_own_way_is_refused_in_one_line(memory, monkeypatch):
    class LibraryError(Exception):
        """Errors like those of aiohttp, httpx and botocore: of none of Python's own classes."""

    def fail(*args, **how):
        raise LibraryError("no\nroute")

    monkeypatch.setattr(type(memory), "_open", fail)
    refused("memory://set/a.parquet", r"unreadable dataset file: memory://set/a\.parquet: .*no route")
    refused("nosuch://set/a.parquet", "unreadable dataset file: nosuch://set/a.parquet: .*Protocol not known")
