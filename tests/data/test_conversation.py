"""LLaVA's JSON: records become samples, and a bad one is a line with its file and number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from remora.data.conversation import Sample, Turn
from remora.data.mixture import fingerprint, locate, open_entry, read_mixture
from remora.errors import DataError
from remora.spec import MixtureEntry, Stage

FOLDER = Path("/pictures")


def read_one(record: dict, folder: Path) -> Sample:
    """A record as the only one of a dataset; every picture that it names is there."""
    file = folder / "train.json"
    file.write_text(json.dumps([record]))
    for name in [record["image"]] if isinstance(record.get("image"), str) else record.get("image") or []:
        if name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2)).save(folder / name)
    return open_entry(MixtureEntry(path=str(file)), folder)[0]


def said(*values: str, **record) -> dict:
    speakers = ("human", "gpt")
    return {"conversations": [{"from": speakers[i % 2], "value": v} for i, v in enumerate(values)], **record}


def test_a_record_becomes_turns_and_paths_in_reading_order(tmp_path):
    paths = ["a.png", "b/c.png", "d.png"]
    sample = read_one(
        said("<image>\nWhat? ", " a cat\n", "And <image> and <image>?", "two", id=7, image=paths), tmp_path
    )
    assert sample.id == "7"
    assert sample.turns == (
        Turn("user", "What?", 1),
        Turn("assistant", "a cat"),
        Turn("user", "And  and ?", 2),
        Turn("assistant", "two"),
    )
    assert [p.location for p in sample.images] == [str(tmp_path / p) for p in paths]


@pytest.mark.parametrize("image", [{}, {"image": None}, {"image": []}, {"image": ""}])
def test_a_record_without_a_picture(image, tmp_path):
    sample = read_one(said("Hello", "Hi", **image), tmp_path)
    assert sample.images == () and sample.id == f"{tmp_path}/train.json: record 0"


def test_an_answer_may_talk_about_the_tag(tmp_path):
    assert read_one(said("Which tag?", "It is <image>."), tmp_path).turns[1] == Turn("assistant", "It is <image>.")


BAD = {
    "no mapping": (["x"], "needs 'conversations'"),
    "no turns": ({"id": 1}, "its keys ('id') make no record"),
    "turns are no list": ({"conversations": "hi"}, "'conversations' is 'hi'; it is a list of turns"),
    "empty": ({"conversations": []}, "the last turn has no answer"),
    "unknown role": ({"conversations": [{"from": "tool", "value": "x"}]}, "turn 0 is from 'tool'"),
    "gpt first": ({"conversations": [{"from": "gpt", "value": "x"}]}, "turn 0 is from 'gpt'"),
    "no value": ({"conversations": [{"from": "human"}]}, "turn 0 is from human and its value is None"),
    "value is a number": ({"conversations": [{"from": "human", "value": 3}]}, "its value is 3, not text"),
    "turn is a string": ({"conversations": ["hi"]}, "turn 0 is from None"),
    "no answer": (said("a", "b", "c"), "the last turn has no answer"),
    "empty answer": (said("a", " \n"), "turn 1: the answer is empty"),
    "picture without a tag": (said("a", "b", image="x.png"), "0 <image> tags but 1 images"),
    "tag without a picture": (said("<image>", "b"), "1 <image> tags but 0 images"),
    "one picture for two tags": (said("<image><image>", "b", image="x.png"), "2 <image> tags but 1 images"),
    "image is a number": (said("<image>", "b", image=5), "image holds 5"),
    "images are numbers": (said("<image>", "b", image=[5]), "image holds 5"),
}


@pytest.mark.parametrize(("record", "why"), BAD.values(), ids=BAD)
def test_a_bad_record_is_named_by_file_and_number_in_one_line(record, why, tmp_path):
    file = tmp_path / "train.json"
    file.write_text(json.dumps([said("a", "b"), record]))
    with pytest.raises(DataError) as caught:
        open_entry(MixtureEntry(path=str(file)), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{file}: record 1: ") and why in message and "\n" not in message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe\x00", b'"text"'])
def test_a_file_of_no_records_is_refused(content, tmp_path):
    (tmp_path / "train.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_entry(MixtureEntry(path=str(tmp_path / "train.json")), tmp_path)
    assert str(tmp_path / "train.json") in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_dataset_tells_the_command_that_makes_it(tmp_path):
    with pytest.raises(DataError) as caught:
        open_entry(MixtureEntry(dataset="demo-captions"), tmp_path)
    assert str(caught.value) == (
        f"missing dataset file: {tmp_path}/demo/captions.json (dataset 'demo-captions'); next: remora data demo"
    )


def test_pictures_of_a_file_are_beside_it_or_where_the_entry_says(tmp_path):
    entry = {"path": str(tmp_path / "a" / "train.json")}
    assert locate(MixtureEntry.model_validate(entry), FOLDER)[1] == str(tmp_path / "a")
    assert locate(MixtureEntry.model_validate(entry | {"images": str(tmp_path)}), FOLDER)[1] == str(tmp_path)


def entry_of(file: Path) -> list[MixtureEntry]:
    return [MixtureEntry(path=str(file), images=str(file.parent / "images"))]


def test_a_fingerprint_is_of_the_content_not_of_the_place(tiny_data, tmp_path):
    one = tiny_data("one/train.json", images="one/images")
    same = tiny_data("two/train.json", images="two/images")
    said = tiny_data("three/train.json", images="three/images")
    said.write_text(said.read_text().replace("thing", "being"))
    shown = tiny_data("four/train.json", images="four/images")
    (shown.parent / "images" / "0.png").write_bytes((shown.parent / "images" / "1.png").read_bytes())
    prints = [fingerprint(e, read_mixture(e, tmp_path)) for e in map(entry_of, (one, same, said, shown))]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_fingerprint_finds_a_missing_and_a_broken_picture(tiny_data, tmp_path):
    for folder, spoil, why in (
        ("a", lambda p: p.unlink(), "1 missing-image of 3 records"),
        ("b", lambda p: p.write_bytes(p.read_bytes()[:45]), "1 corrupt-image of 3 records"),
        ("c", lambda p: p.write_text("not a picture"), "1 corrupt-image of 3 records"),
    ):
        file = tiny_data(f"{folder}/train.json", images=f"{folder}/images")
        picture = tmp_path / folder / "images" / "1.png"
        spoil(picture)
        with pytest.raises(DataError) as caught:
            read_mixture(entry_of(file), tmp_path)
        message = str(caught.value)
        assert message.startswith(f"{file}: record 1: {picture}") and why in message and "\n" not in message


@pytest.mark.parametrize(
    ("changes", "why"), [({"max_length": 8}, "sample 's0' has .* tokens, stage 's' allows 8"), ({}, "'s' is text-only")]
)
def test_a_sample_that_does_not_fit_its_stage_is_named(changes, why, tiny_data, tiny_tokenizer, tmp_path):
    from remora import catalog
    from remora.reading.batches import StageData
    from remora.reading.prompt import Prompter

    file = tiny_data(pictures=not changes)
    stage = {"name": "s", "mixture": [{"path": str(file), "images": str(tmp_path / "images")}], "lr": 1, "steps": 1}
    stage |= {"batch": 1, "tune": {"vision": "absent", "connector": "absent", "llm": "full"}, **changes}
    stage |= {"over_length": "fail"}
    prompter = Prompter(catalog.template("brief"), tiny_tokenizer, 0)
    checked = Stage.model_validate(stage)
    data = StageData(checked, read_mixture(checked.mixture, tmp_path), prompter, None, seed=0)
    with pytest.raises(DataError, match=why):
        data.encode(data.samples[0][0])
