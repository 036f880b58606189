"""An index returns every record unchanged, detects changes, and reads only those again."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from remora.data import index_builder
from remora.data.index import Dataset
from remora.data.index_builder import open_dataset, over_processes
from remora.data.locations import join, relative
from remora.data.mixture import fingerprint, open_entry
from remora.data.sources import find_source, llava
from remora.errors import DataError
from remora.spec import MixtureEntry

RANDOM = random.Random(0)


def opened(file: Path, **how) -> Dataset:
    return open_dataset(find_source(str(file)), str(file), str(file.parent / "images"), file.parent / "index", **how)


def entry(file: Path, **more) -> MixtureEntry:
    return MixtureEntry(path=str(file), images=str(file.parent / "images"), **more)


@pytest.fixture
def reads(monkeypatch):
    """Pictures that were read to be indexed."""
    read, seen = index_builder._read, []
    monkeypatch.setattr(index_builder, "_read", lambda p: seen.append(Path(p.location).name) or read(p))
    return seen


def test_every_record_comes_back_and_its_pictures_open(tiny_data):
    file = tiny_data("train.json", count=7)
    dataset = opened(file)
    assert len(dataset) == 7 and [s.id for s in dataset] == [f"s{i}" for i in range(7)]
    assert dataset[4].turns[0].text == "What is number 4?" and dataset[-1].id == "s6" and dataset[2:4][1].id == "s3"
    assert dataset[5].images[0].open().getpixel((0, 0)) == (100, 100, 50)
    with pytest.raises(IndexError):
        dataset[7]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_shards_read_by_many_make_the_index_that_one_makes(tiny_data, monkeypatch, suffix):
    file = tiny_data("train.json", count=40)
    if suffix == "jsonl":
        records = json.loads(file.read_text())
        file = file.with_suffix(".jsonl")
        file.write_text("\n\n".join(json.dumps(r) for r in records))
    whole = opened(file)
    monkeypatch.setattr(llava, "SHARD", 700)
    (file.parent / "index").rename(file.parent / "one")
    shards = list(find_source(str(file)).shards())
    assert len(shards) > 5 and sum(s.bytes for s in shards) <= file.stat().st_size

    def backwards(work, items):  # finished in any order, given back in theirs
        items = list(items)
        done = {i: work(items[i]) for i in RANDOM.sample(range(len(items)), len(items))}
        return [done[i] for i in range(len(items))]

    told = []
    cut = opened(file, spread=backwards, progress=lambda done, of: told.append((done, of)))
    assert cut.digest == whole.digest and list(cut) == list(whole)
    assert [cut.where(i) for i in range(40)] == [f"{file}: record {i}" for i in range(40)]
    assert told[-1][0] == sum(s.bytes for s in shards) and told[-1][1] == file.stat().st_size


def test_a_pool_of_processes_gives_the_same(tiny_data, monkeypatch):
    file = tiny_data("train.json", count=12)
    whole = opened(file)
    monkeypatch.setattr(llava, "SHARD", 900)
    assert sum(1 for _ in find_source(str(file)).shards()) > 2
    (file.parent / "index").rename(file.parent / "one")
    assert opened(file, spread=over_processes).digest == whole.digest


def test_only_what_changed_is_read_again(tiny_data, reads):
    file = tiny_data("train.json", count=4)
    first = opened(file)
    assert sorted(reads) == [f"{i}.png" for i in range(4)]
    reads.clear()
    assert opened(file).folder == first.folder and not reads

    os.utime(file.parent / "images" / "2.png", (1, 1))  # touched, not changed: the same index
    assert opened(file).folder == first.folder and reads == ["2.png"]
    reads.clear()

    Image.new("RGB", (3, 3)).save(file.parent / "images" / "1.png")
    second = opened(file)
    assert reads == ["1.png"] and second.digest != first.digest and second[0] == first[0]
    sizes = [sample.images[0].size for sample in second]  # of pictures that were not read again, too
    assert sizes == [(8, 6), (3, 3), (8, 6), (8, 6)]
    reads.clear()

    records = json.loads(file.read_text())
    file.write_text(json.dumps(records[:3]))
    assert len(opened(file)) == 3 and not reads
    assert len(first) == 4 and first[3].id == "s3"  # a process that had it open keeps reading the old one


def test_a_moved_run_folder_reads_what_moved_with_it_without_indexing_it_again(tiny_data, reads, monkeypatch):
    """Its own data by their place in it; data elsewhere stay where they are. Twice, since the first move is the easy
    one."""
    elsewhere = tiny_data("elsewhere/train.json", images="elsewhere/images")
    runs = elsewhere.parent.parent / "runs"
    own = tiny_data("runs/data/demo/train.json", images="runs/mine")
    builds, build = [], index_builder._build
    monkeypatch.setattr(index_builder, "_build", lambda source, *more: builds.append(source) or build(source, *more))

    def both(runs):
        places = ((runs / "data" / "demo" / "train.json", runs / "mine"), (elsewhere, elsewhere.parent / "images"))
        return [open_dataset(find_source(str(f)), str(f), str(images), runs / "data" / "index") for f, images in places]

    def said(found, runs):
        return [[d.folder.relative_to(runs), d.digest, [s.images[0].open().size for s in d]] for d in found]

    before = said(both(runs), runs)
    assert len(builds) == 2 and len(reads) == 6 and own.exists()
    for place in ("second/runs", "third"):
        old, runs = runs, elsewhere.parent.parent / place
        runs.parent.mkdir(exist_ok=True)
        old.rename(runs)
        mine, other = both(runs)
        assert said([mine, other], runs) == before and len(builds) == 2 and len(reads) == 6
        assert mine.where(0) == f"{runs}/data/demo/train.json: record 0"
        assert [s.images[0].location for s in mine] == [f"{runs}/mine/{i}.png" for i in range(3)]
        assert other.where(0) == f"{elsewhere}: record 0"
        assert mine[1].turns == other[1].turns
    for file in runs.rglob("*"):  # copied by what keeps no times: read again, and found to be the same
        os.utime(file, (1, 1))
    assert said(both(runs), runs) == before and len(builds) == 3 and len(reads) == 9


@pytest.mark.parametrize(
    "location", ["/runs/a/b.png", "/runs", "/run", "/runs2/a", "s3://bucket/runs/a", "/runs/../x/a"]
)
def test_a_location_relative_to_a_folder_joins_to_itself(location):
    found = relative("/runs", location)
    assert found.startswith(("/", "s3:")) == (location not in ("/runs", "/runs/a/b.png"))
    assert os.path.normpath(join("/runs", found)) == os.path.normpath(location) or found == location


def test_a_picture_that_changes_under_a_run_is_told(tiny_data):
    file = tiny_data("train.json")
    picture = opened(file)[1].images[0]
    Image.new("RGB", (9, 9)).save(picture.location)
    with pytest.raises(DataError, match=r"changed image: .*1\.png has changed since"):
        picture.open()


def test_what_is_skipped_is_said_and_limited(tiny_data):
    file = tiny_data("train.json", count=5)
    (file.parent / "images" / "1.png").unlink()
    (file.parent / "images" / "3.png").write_text("no picture")
    with pytest.raises(DataError) as caught:
        open_entry(entry(file), file.parent)
    message = str(caught.value)
    assert message.startswith(f"{file}: record 1: ") and "1 missing-image, 1 corrupt-image of 5 records" in message
    assert "skip: [missing-image, corrupt-image]" in message and "\n" not in message
    with pytest.raises(DataError, match="1 corrupt-image of 5"):
        open_entry(entry(file, skip=["missing-image"], max_skipped=1), file.parent)
    both = ["missing-image", "corrupt-image"]
    with pytest.raises(DataError, match=r"2 of 5 records are skipped, more than max_skipped 0\.3"):
        open_entry(entry(file, skip=both, max_skipped=0.3), file.parent)
    kept = open_entry(entry(file, skip=both, max_skipped=0.4), file.parent)
    assert [s.id for s in kept] == ["s0", "s2", "s4"] and kept.skipped == 2 and kept.number(1) == 2
    # A file that is put back counts again.
    Image.new("RGB", (8, 6)).save(file.parent / "images" / "1.png")
    kept = open_entry(entry(file, skip=both, max_skipped=0.4), file.parent)
    assert [s.id for s in kept] == ["s0", "s1", "s2", "s4"]


def test_the_fingerprint_says_which_records_are_read(tiny_data):
    file = tiny_data("train.json", count=4)
    before = fingerprint([entry(file)], [open_entry(entry(file), file.parent)])
    (file.parent / "images" / "1.png").unlink()
    lenient = entry(file, skip=["missing-image"], max_skipped=1)
    after = fingerprint([lenient], [open_entry(lenient, file.parent)])
    assert before != after


def contents(dataset: Dataset) -> list:
    """All that a run takes from an index: its records, their pictures, its digest and its problems."""
    held = [(s, [p.open().tobytes() for p in s.images]) for s in dataset]
    places = [[(p.location.rpartition("/")[2], p.offset, p.sha256) for p in s.images] for s, _ in held]
    turns = [(s.id, s.turns) for s, _ in held]
    return [turns, places, [p for _, p in held], dataset.digest, dict(dataset.counts), list(dataset.flaws())]


def test_letters_that_changed_in_an_index_are_never_trained_on(tiny_data):
    dataset = opened(tiny_data("train.json"))
    records = dataset.folder / "records.bin"
    whole = records.read_bytes()
    records.write_bytes(whole.replace(b"What is number 1?", b"What is number 7?"))
    with pytest.raises(
        DataError, match=r"torn index: .*: records\.bin: record 1 does not match its digest; run the same"
    ):
        list(Dataset(dataset.folder))
    healed = opened(tiny_data("train.json"))
    assert healed.digest == dataset.digest and (healed.folder / "records.bin").read_bytes() == whole


def test_an_index_too_large_to_compare_as_a_whole_is_compared_by_record(tiny_data, monkeypatch):
    monkeypatch.setattr("remora.data.index.AT_ONCE", 10)
    file = tiny_data("train.json")
    dataset = opened(file)
    before = contents(dataset)
    records = dataset.folder / "records.bin"
    records.write_bytes(records.read_bytes().replace(b"number 1", b"number 7"))
    with pytest.raises(DataError, match="torn index"):  # seen when it is read, not when it is opened
        list(opened(file))
    again = opened(file)
    assert contents(again) == before


@pytest.mark.sampled(1)
@pytest.mark.parametrize("embedded", [False, True])
def test_whatever_changes_in_an_index_it_is_named_and_healed(tiny_data, embedded):
    """Bits flipped and bytes cut in every file of it: the same data, or one line and then the same data again."""
    file = tiny_data("train.json", count=3)
    records = json.loads(file.read_text())
    records.append({"id": "bad", "conversations": []})
    if embedded:
        for record in records[:3]:
            record["image"] = {"bytes": (file.parent / "images" / record["image"]).read_bytes(), "path": None}
        file = file.with_suffix(".parquet")
        turns = [{k: r.get(k) for k in ("id", "image", "conversations")} for r in records]
        pq.write_table(pa.Table.from_pylist(turns), file)
    else:
        file.write_text(json.dumps(records))
    skip = ("no-conversation", "no-answer")
    whole = Dataset(opened(file).folder, skip)
    expected, home = contents(whole), whole.folder.parent
    rng, named = random.Random(0), 0
    for place in sorted(p for p in home.rglob("*") if p.is_file() and p.name != "lock"):
        for _ in range(12):
            content = bytearray(place.read_bytes())
            if rng.random() < 0.2:
                del content[rng.randrange(len(content)) :]
            else:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            place.write_bytes(content)
            try:
                assert contents(Dataset(whole.folder, skip)) == expected, place
            except DataError as e:
                assert re.match(rf"(torn|unreadable) index: {whole.folder}: ", str(e)) and "\n" not in str(e), place
                named += 1
            assert contents(Dataset(opened(file).folder, skip)) == expected, place
    assert named > 20


def test_a_dataset_without_a_record_is_refused(tmp_path):
    for name, text in (("a.json", "[]"), ("a.jsonl", "\n \n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="no record in it"):
            opened(tmp_path / name)
    assert not any((tmp_path / "index").glob("*/building*"))
