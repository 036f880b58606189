"""`remora data check` reports every problem, never stops at the first, and never crashes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from remora import catalog
from remora.cli import main
from remora.data.check import NOTED, check_dataset
from remora.data.conversation import image_field, parse_turns, problems
from remora.errors import DataError
from remora.reading.prompt import Prompter
from remora.reading.truncation import StagePrompter
from remora.spec import Skippable, Stage

FORMS = ("forms", "messages", "inline", "tar", "llava")
DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def record(*values: str, **more) -> dict:
    turns = [{"from": ("human", "gpt")[i % 2], "value": v} for i, v in enumerate(values)]
    return {"conversations": turns, **more}


@pytest.fixture
def broken(tmp_path):
    """A file with one record of each kind of problem and two good ones, and the record numbers of each kind."""
    Image.effect_noise((40, 30), 50).convert("RGB").save(tmp_path / "good.jpg", quality=95)
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    Image.new("1", (8000, 7000)).save(tmp_path / "huge.png")
    Image.new("1", (16_000, 12_000)).save(tmp_path / "larger.png")
    Image.effect_noise((9, 9), 50).convert("F").save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 4_000, np.uint16)).save(tmp_path / "dark.png")
    ask = "<image>\nWhat?"
    said = {
        "good": record(ask, "noise", id=1, image="good.jpg"),
        "no-conversation": ["no record"],
        "unknown-role": {"conversations": [{"from": "tool", "value": "x"}, {"from": "gpt", "value": "y"}]},
        "turn-order": {"conversations": [{"from": "gpt", "value": "x"}, {"from": "gpt", "value": "y"}]},
        "no-text": {"conversations": [{"from": "human"}, {"from": "gpt", "value": "y"}]},
        "not-unicode": record("a", "half \ud83d of one"),
        "empty-answer": record("a", " \n"),
        "no-answer": record("a", "b", "c"),
        "image-field": record("a", "b", image=5),
        "tag-without-image": record(ask, "b"),
        "image-without-tag": record("a", "b", image="good.jpg"),
        "missing-image": record(ask, "b", image="none.jpg"),
        "corrupt-image": record(ask, "b", image="cut.jpg"),
        "oversized-image": record(ask, "b", image="huge.png"),
        "too-large-image": record(ask, "b", image="larger.png"),
        "unsupported-image": record(ask, "b", image="float.tif"),
        "narrow-range-image": record(ask, "b", image="dark.png"),
        "duplicate-id": record("a", "b", id="1"),
        "text": record(ask, "b", image="text.png"),
    }
    (tmp_path / "train.json").write_text(json.dumps(list(said.values())))
    return tmp_path / "train.json", {kind: i for i, kind in enumerate(said)}


@pytest.mark.slow
def test_each_kind_is_counted_and_named_by_file_and_record(broken):
    file, numbers = broken
    report = check_dataset(str(file), str(file.parent))
    kinds = set(numbers) - {"good", "text"}
    assert set(report.counts) == kinds
    assert all(n == (2 if kind == "corrupt-image" else 1) for kind, n in report.counts.items())
    for kind in kinds - {"duplicate-id"}:
        assert report.examples[kind][0].startswith(f"{file}: record {numbers[kind]}: "), kind
    assert report.examples["corrupt-image"][1].startswith(f"{file}: record {numbers['text']}: ")
    assert f"id '1' is also that of {file}: record 0" in report.examples["duplicate-id"][0]
    assert (report.records, report.pictures) == (19, 8)
    assert report.fatal == sum(report.counts.values()) - sum(report.counts[k] for k in NOTED)


def test_a_picture_of_several_records_is_named_for_each(tmp_path):
    ask = record("<image>", "b", image="none.jpg")
    (tmp_path / "train.json").write_text(json.dumps([ask] * 7))
    report = check_dataset(str(tmp_path / "train.json"), str(tmp_path))
    assert report.counts["missing-image"] == 7 and report.pictures == 1
    assert [int(re.search(r"record (\d+)", e)[1]) for e in report.examples["missing-image"]] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_what_a_mixture_skips_is_counted_and_not_fatal(broken, tmp_path, capsys):
    file, _ = broken
    report = check_dataset(str(file), str(file.parent), skip=["corrupt-image"])
    assert report.counts["corrupt-image"] == 2 and report.fatal == 13
    mixture = [{"path": str(tmp_path / "one.json"), "skip": ["missing-image"], "max_skipped": 1}]
    Image.new("RGB", (9, 9)).save(tmp_path / "there.png")
    shown = [record("<image>", "b", image="none.jpg"), record("<image>", "b", image="there.png")]
    (tmp_path / "one.json").write_text(json.dumps(shown))
    (tmp_path / "words.json").write_text(json.dumps([record("a", "b")]))
    stages = {name: {"mixture": mixture, "steps": 2} for name in ("align", "finetune")}
    stages["language"] = {"mixture": [{"path": str(tmp_path / "words.json")}], "steps": 2}
    variant = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m", "recipe": "base"}
    (tmp_path / "variant.yaml").write_text(json.dumps(variant | {"overrides": stages}))
    main(["data", "check", str(tmp_path / "variant.yaml")])
    said = capsys.readouterr().out
    assert said.count("missing-image: 1 (skipped)") == 1 and "nothing that would stop a training run" in said
    assert "stage align: 512 samples in 2 steps" in said
    # Each stage is checked, not only its data.
    stages["language"]["mixture"] = mixture
    (tmp_path / "variant.yaml").write_text(json.dumps(variant | {"overrides": stages}))
    with pytest.raises(SystemExit, match=r"^remora: stage 'language' reads only text .* shows a picture; give it"):
        main(["data", "check", str(tmp_path / "variant.yaml")])


def test_lengths_and_masks_are_found_with_a_prompter(tmp_path, tiny_tokenizer):
    long = record("q", "a", "q", "a " * 60)
    (tmp_path / "train.json").write_text(json.dumps([record("q", "a"), long, record("q " * 60, "a")]))
    prompter = Prompter(catalog.template("brief"), tiny_tokenizer, 4)
    stage = Stage(name="s", mixture=[{"path": "train.json"}], template="brief", batch=1, steps=1, lr=1, max_length=60)
    report = check_dataset(str(tmp_path / "train.json"), str(tmp_path), StagePrompter(stage, prompter).problems)
    assert report.counts == {"over-length": 1, "over-length-first": 1}
    assert "record 1: " in report.examples["over-length"][0] and report.fatal == 1
    for share, fatal in ((0.3, 1), (0.34, 0)):  # a stage lives with so many that it drops
        report.leave_out(share)
        assert report.fatal == fatal


def test_every_kind_is_documented():
    rows = [line.split("|")[1] for line in DOCS.read_text().splitlines() if line.startswith("| ")][1:]
    documented = {kind.strip() for row in rows for kind in row.split(",")}
    sources = "".join(
        (Path(__file__).parents[2] / "platform/remora/data" / f).read_text()
        for f in (
            *("check.py", "conversation.py", "pictures.py", "pixels.py", "signatures.py"),
            *(f"sources/{n}.py" for n in FORMS),
        )
    )
    used = set(re.findall(r'"([a-z]+-[a-z-]+)"', sources))
    assert used == documented
    cells = [line.split("|") for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    stops = {kind.strip() for row in cells if row[3].strip() == "stops" for kind in row[1].split(",")}
    assert stops == set(get_args(Skippable))
    assert documented >= NOTED


def test_jsonl_is_read_line_by_line_and_a_bad_line_is_one_problem(tmp_path):
    lines = [json.dumps(record("a", "b")), "{half a rec", "", json.dumps(record("c", "d"))]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    report = check_dataset(str(tmp_path / "train.jsonl"), str(tmp_path))
    assert report.records == 3 and report.counts == {"no-conversation": 1}
    assert "record 1: " in report.examples["no-conversation"][0]


@pytest.mark.slow
def test_the_command_prints_counts_writes_json_and_ends_with_1(broken, tmp_path, capsys):
    file, _ = broken
    with pytest.raises(SystemExit, match=r"remora: 15 problems in 15 of 19 records would stop a training run"):
        main(["data", "check", str(file), "--json"])
    told = capsys.readouterr()
    said = told.err
    assert "19 records (9 text only), 8 pictures" in said
    assert "missing-image: 1" in said and "duplicate-id: 1 (noted)" in said
    (out,) = json.loads(told.out)
    assert out["problems"]["corrupt-image"]["count"] == 2 and out["fatal"] == 15
    good = tmp_path / "good.json"
    good.write_text(json.dumps([record("a", "b")]))
    main(["data", "check", str(good)])
    assert "nothing that would stop a training run" in capsys.readouterr().out


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["from", "value", "x"]), inner),
    max_leaves=6,
)
TURN = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "system"]) | JSON, "value": st.sampled_from(["<image>", "a", " "]) | JSON}
)
RECORD = JSON | st.fixed_dictionaries(
    {"conversations": st.lists(TURN | JSON, max_size=4) | JSON}, optional={"image": JSON | st.just("a.png"), "id": JSON}
)


@pytest.mark.slow
@settings(max_examples=1500)
@given(RECORD)
def test_whatever_a_record_is_it_parses_or_is_named(said):
    found = list(problems(said))
    assert all("\n" not in why or "\\n" in why for _, why in found)
    if not found:
        turns = parse_turns(said)
        assert turns[-1].role == "assistant" and len(image_field(said)) == sum(t.images for t in turns)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.binary(max_size=80) | st.lists(RECORD, max_size=4).map(lambda r: json.dumps(r).encode()))
def test_whatever_a_file_holds_it_is_checked_or_refused_in_one_line(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    for name in ("a.json", "a.jsonl"):
        (folder / name).write_bytes(content)
        try:
            report = check_dataset(str(folder / name), str(folder))
        except DataError as e:
            assert str(folder / name) in str(e) and "\n" not in str(e)
        else:
            assert report.records > 0
