"""Converting keeps every turn and every byte, between any two formats, and leaves nothing behind if it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remora.cli import main
from remora.data import targets
from remora.data.conversation import image_field, parse_turns, problems
from remora.data.convert import convert_dataset
from remora.data.index import Dataset
from remora.data.index_builder import open_dataset
from remora.data.locations import join
from remora.data.pictures import Picture
from remora.data.sources import find_source, picture_folder
from remora.errors import DataError

NAMES = ["t.json", "t.jsonl", "t.parquet", "t.tar", "tars", "t-{000..}.tar", "t.csv", "t.tsv"]
READ = {"t-{000..}.tar": "t-*.tar"}


def opened(location: Path | str, images: Path | str | None = None) -> Dataset:
    source, place = find_source(str(location)), str(images or picture_folder(str(location)))
    folder = Path(str(location).partition("*")[0]).parent
    return open_dataset(source, str(location), place, folder / "index", spread=map)


def converted(source: Path | str, images: Path | str, target: Path, **how) -> str:
    """Convert, and the location at which the result is read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    convert_dataset(str(source), str(images), str(target), **how)
    assert not [p for p in target.parent.iterdir() if p.name.startswith(".")]
    return str(target.with_name(READ.get(target.name, target.name)))


def content(location: Path | str, images: Path | str | None = None) -> list:
    """A dataset's content, read without an index."""
    source, place, found = find_source(str(location)), str(images or picture_folder(str(location))), []
    for raw in (raw for shard in source.shards() for raw in source.read(shard)):
        assert not list(problems(raw.record))
        shown = raw.pictures if raw.pictures is not None else [Picture(join(place, n)) for n in image_field(raw.record)]
        held = [p if isinstance(p, bytes) else p.read() for p in shown]
        found.append((raw.record.get("id"), parse_turns(raw.record), held))
    return found


NAMED = ("t.json", "t.jsonl", "t.csv", "t.tsv")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("one", NAMES)
def test_every_pair_of_formats_keeps_turns_and_pictures(tiny_data, tmp_path, one):
    file = tiny_data("train.json", count=4)
    records = json.loads(file.read_text())
    records[1]["conversations"][0]["value"] = '<image>\nWhich, "this"\nor\tthat?\r\n, é\u2028'
    del records[2]["id"]
    file.write_text(json.dumps(records))
    images = file.parent / "images"
    digest = opened(file, images).digest
    first = converted(file, images, tmp_path / "one" / one)
    shown = images if one in NAMED else picture_folder(first)
    assert opened(first, shown).digest == digest
    for i, other in enumerate(NAMES):
        second = converted(first, shown, tmp_path / f"two{i}" / other)
        dataset = opened(second, images if one in NAMED and other in NAMED else None)
        assert dataset.digest == digest and len(list(dataset)) == 4


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=12)
WORDS = TEXT.filter(str.strip)
ROUND = st.tuples(TEXT, WORDS, st.integers(0, 2))
"""A question, its answer, and how many pictures it shows."""


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.lists(st.tuples(TEXT, WORDS, st.integers(0, 2)), min_size=1, max_size=3), TEXT), min_size=1)
)
def test_whatever_is_said_comes_through_all_formats(tmp_path_factory, said):
    folder = tmp_path_factory.mktemp("said", numbered=True)
    for i in range(3):
        (folder / f"{i}.gif").write_bytes(b"GIF8" + bytes([i]) * 9)  # no picture, but bytes are bytes
    records = [
        {
            "id": name,
            "image": [f"{n % 3}.gif" for n in range(sum(shown for _, _, shown in rounds))],
            "conversations": [
                turn
                for question, answer, shown in rounds
                for turn in (
                    {"from": "human", "value": "<image>" * shown + question},
                    {"from": "gpt", "value": answer + " <image>"},
                )
            ],
        }
        for rounds, name in said
    ]
    place = folder / "train.json"
    place.write_text(json.dumps(records))
    shown: Path | str = folder
    before = content(place, folder)
    for step, name in enumerate(["t.parquet", "t.tar", "t.jsonl", "tars", "t.json"]):
        at = converted(place, shown, folder / str(step) / name)
        place, shown = at, picture_folder(at)
        assert content(place) == before


def test_shards_are_cut_at_their_size_and_numbered_from_the_pattern(tiny_data, tmp_path):
    file = tiny_data("train.json", count=20)
    images = file.parent / "images"
    converted(file, images, tmp_path / "x" / "t-{007..}.tar", shard_size=4096)
    made = sorted(p.name for p in (tmp_path / "x").iterdir())
    assert made[0] == "t-007.tar" and len(made) > 5 and made[-1] == f"t-{6 + len(made):03d}.tar"
    assert opened(tmp_path / "x" / f"t-{{007..{6 + len(made):03d}}}.tar").digest == opened(file, images).digest


def test_row_groups_are_cut_at_their_size(tiny_data, tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr(targets, "ROWS", 3)
    file = tiny_data("train.json", count=10)
    converted(file, file.parent / "images", tmp_path / "t.parquet")
    assert pq.ParquetFile(tmp_path / "t.parquet").metadata.num_row_groups == 4


def refused(file: Path, target: Path, why: str) -> None:
    before = sorted(file.parent.rglob("*"))
    with pytest.raises(DataError, match=why) as caught:
        convert_dataset(str(file), str(file.parent / "images"), str(target))
    assert "\n" not in str(caught.value)
    assert sorted(file.parent.rglob("*")) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_record_with_a_problem_stops_it_and_nothing_is_left(tiny_data, name):
    file = tiny_data("train.json", count=3)
    records = json.loads(file.read_text())
    records[2]["conversations"][1]["value"] = " "
    file.write_text(json.dumps(records))
    refused(file, file.parent / name, r"train\.json: record 2: .*\(empty-answer\); .*remora data check")
    records[2] = records[0] | {"image": "none.png"}
    file.write_text(json.dumps(records))
    refused(file, file.parent / name, r"record 2: .*none\.png is not there \(missing-image\)")


def test_what_a_table_cannot_hold_is_refused_by_number(tiny_data):
    file = tiny_data("train.json", count=3)
    records = json.loads(file.read_text())
    records[1]["conversations"] *= 2
    records[1]["image"] = ["0.png", "1.png"]
    file.write_text(json.dumps(records))
    refused(file, file.parent / "t.csv", r"record 1: 4 turns and 2 pictures; .*convert to \.jsonl")


def test_a_target_that_is_there_or_unknown_is_refused(tiny_data, tmp_path):
    file = tiny_data("train.json")
    (tmp_path / "there.parquet").write_text("mine")
    (tmp_path / "t-images").mkdir()
    refused(file, tmp_path / "there.parquet", "there.parquet exists")
    refused(file, tmp_path / "t.xlsx", r"no format has such a name; supported: \.json")
    for target in ("s3://a/t.json", "memory://t.parquet"):
        with pytest.raises(DataError, match="only be written to a local path"):
            convert_dataset(str(file), str(tmp_path), target)
    assert (tmp_path / "there.parquet").read_text() == "mine"
    converted(file, tmp_path / "images", tmp_path / "e.parquet")
    refused(tmp_path / "e.parquet", tmp_path / "t.json", "t-images exists")


def test_pictures_that_are_no_pictures_go_into_parquet_alone(tiny_data, tmp_path):
    file = tiny_data("train.json")
    (tmp_path / "images" / "1.png").write_bytes(b"avif")
    refused(file, tmp_path / "t.tar", r"record 1: a picture is not one of bmp, .*convert to \.parquet")
    convert_dataset(str(file), str(tmp_path / "images"), str(tmp_path / "t.parquet"))


def test_the_command_says_what_it_wrote(tiny_data, tmp_path, capsys, monkeypatch):
    file = tiny_data("train.json")
    records = json.loads(file.read_text())
    records[0] |= {"model": "x"}
    file.write_text(json.dumps(records))
    monkeypatch.chdir(tmp_path)
    main(["data", "convert", "train.json", "t.parquet", "--images", "images"])
    said = capsys.readouterr().out
    assert "t.parquet: 3 records, 3 pictures" in said and "left out, because there is no column: model" in said
    main(["data", "convert", "t.parquet", "out/u.jsonl"])
    assert "pictures were written to u-images/, beside it" in capsys.readouterr().out
    main(["data", "convert", "train.json", "v.jsonl", "--images", "images"])
    assert f"--images {tmp_path}/images" in capsys.readouterr().out
    assert json.loads((tmp_path / "v.jsonl").read_text().splitlines()[0]) == records[0]
    main(["data", "check", "out/u.jsonl"])
    for wrong in (["t.parquet"], ["t.parquet", "x.tar", "--shard-size", "0"]):
        with pytest.raises(SystemExit):
            main(["data", "convert", *wrong])
