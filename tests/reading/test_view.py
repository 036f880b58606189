"""A sample is shown exactly as a step gets it: ids, labels, order, cuts and pixels."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from prompt_tokenizers import MAKERS

from remora import catalog
from remora.data.conversation import Sample, Turn
from remora.data.mixture import read_mixture
from remora.reading.batches import StageData
from remora.reading.images import preprocess
from remora.reading.prompt import Prompter, Tokens
from remora.reading.shown import View
from remora.reading.truncation import Unfit
from remora.reading.view import as_seen, free_reader, rendered, spans, stage_reader, view
from remora.spec import Stage
from remora.token_ids import IGNORE, IMAGE

N = 4
"""Image tokens."""
ANSWERS = ["a red circle", "naïve 猫🐈‍⬛ café", "</s> is no end, nor is <|im_end|>"]
TURNS = [
    Turn("user", "What is it?", 1),
    Turn("assistant", ANSWERS[0]),
    Turn("user", "And <image>\nhere 🦆?", 2),
    Turn("assistant", ANSWERS[1]),
    Turn("user", "So?"),
    Turn("assistant", ANSWERS[2]),
]
FITS = [
    (template, name)
    for template in catalog.entries("templates")
    for name in ("vicuna", "phi", "smollm2", "qwen2", "llama-3", "gemma")
    if set(catalog.template(template).tokens) <= set(MAKERS[name]().get_vocab())
]


def prompter(template: str, name: str) -> Prompter:
    tokenizer = MAKERS[name]()
    end = tokenizer.eos_token
    turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}" + end + "\n{% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}assistant:{% endif %}"
    return Prompter(catalog.template(template), tokenizer, N)


def supervised(found) -> list[str]:
    """The text of every row of supervised spans."""
    rows, before = [], False
    for span in found:
        if span.supervised:
            rows = [*rows[:-1], rows[-1] + span.text] if before else [*rows, span.text]
        before = span.supervised
    return rows


@pytest.mark.parametrize(("template", "name"), FITS)
def test_supervised_is_every_answer_with_its_end_and_nothing_else(template, name):
    made = prompter(template, name)
    found = spans(made, made.encode(TURNS))
    rows = supervised(found)
    if template == "plain":  # captions follow each other, without an end token
        rows = rows[0:1] + [part for row in rows[1:] for part in row.split("\n") if part]
        assert [r.strip() for r in rows] == [ANSWERS[0], ANSWERS[1], ANSWERS[2]]
        return
    assert [r.removesuffix(made.stop).strip() for r in rows] == ANSWERS
    assert all(r.endswith(made.stop) for r in rows)


@pytest.mark.parametrize("name", MAKERS)
def test_every_token_is_shown_once_with_its_label_and_whole_characters(name):
    made = prompter("vicuna", name)
    tokens = made.encode(TURNS)
    found = spans(made, tokens)
    assert [i for s in found for t in s.tokens for i in t.ids] == tokens.ids
    labels = [i if s.supervised else IGNORE for s in found for t in s.tokens for i in t.ids]
    assert labels == tokens.labels
    assert [s.kind for s in found].count("image") == 3
    assert all(set(t.ids) == {IMAGE} and len(t.ids) == N for s in found if s.kind == "image" for t in s.tokens)
    special = {str(made.tokenizer.convert_ids_to_tokens(i)) for i in made.special.values()}
    assert all(t.text in special for s in found if s.kind == "special" for t in s.tokens)
    words = "".join(s.text for s in found if s.kind != "image")
    assert "🐈‍⬛" in words and "\N{REPLACEMENT CHARACTER}" not in words
    assert all(ANSWERS[i] in words for i in range(3))


# A stage's samples.

SAID = [
    [("What is it?", "a red circle", 1), ("And this?", "two cats " * 20, 1)],
    [("Is it red?", "yes", 0)],
    [("What is it? " * 40, "a dog", 1)],
    [("What is it?", "a cat", 2)],
    [("Hello", "yes yes", 0), ("So", "no", 0), ("And", "It is " * 80, 0)],
]
"""0 and 4 lose rounds, 2 is dropped."""


@pytest.fixture
def stage_data(tmp_path):
    records = []
    for number, rounds in enumerate(SAID):
        turns, images = [], []
        for question, answer, shown in rounds:
            turns += [{"from": "human", "value": "<image>\n" * shown + question}]
            turns += [{"from": "gpt", "value": answer.strip()}]
            for _ in range(shown):
                images.append(f"{number}-{len(images)}.png")
                noise = np.random.default_rng(10 * number + len(images)).integers(0, 256, (9, 14, 3), np.uint8)
                Image.fromarray(noise).save(tmp_path / images[-1])
        records.append({"id": f"s{number}", "image": images, "conversations": turns})
    (tmp_path / "train.json").write_text(json.dumps(records))
    (tmp_path / "more.json").write_text(json.dumps(records[1:2] * 3))

    def make(**changes) -> StageData:
        mixture = [{"path": str(tmp_path / "train.json")}, {"path": str(tmp_path / "more.json"), "weight": 2}]
        stage = {"name": "s", "mixture": mixture, "template": "brief", "batch": 11, "epochs": 2}
        stage |= {"lr": 1e-3, "max_length": 60, **changes}
        made = Prompter(catalog.template("brief"), MAKERS["stablelm"](), N)
        checked = Stage.model_validate(stage)
        data = StageData(checked, read_mixture(checked.mixture, tmp_path), made, None, 5)
        data.encoder = catalog.vision("efficientnet-lite0").model_copy(update={"image_size": 8})
        return data

    return make


def by_id(data: StageData) -> dict[str, View]:
    views = (view(data, p, ["train", "more"]) for p in range(data.order.epoch_size))
    return {v.id: v for v in views if v.dataset == "train"}


@pytest.mark.parametrize("aspect", ["square", "pad"])
def test_positions_order_ids_and_pixels_are_those_of_the_steps(stage_data, aspect):
    data, shown = stage_data(aspect=aspect), stage_data(aspect=aspect)
    assert data.steps == 2
    for step in range(data.steps):
        (batch,) = data.read(step, 0, 1, data.stage.batch, "padded").batches
        pixels = iter(batch.pixels)
        for row, position in enumerate(data.positions(step)):
            v = view(shown, position, ["train", "more"])
            dataset, index = data.order[position]
            assert (v.dataset, v.record) == (["train", "more"][dataset], index)
            assert v.id == data.sample(position).id
            length = int(batch.mask[row].sum())
            if v.dropped:
                assert (length, v.id, v.spans, v.tokens) == (1, "s2", (), 0)
                continue
            assert [i for s in v.spans for t in s.tokens for i in t.ids] == batch.ids[row, :length].tolist()
            labels = [i if s.supervised else IGNORE for s in v.spans for t in s.tokens for i in t.ids]
            assert labels == batch.labels[row, :length].tolist()
            assert v.supervised == int((batch.labels[row] != IGNORE).sum()) and v.tokens == length
            for picture in (p for p in v.pictures if p.shown):
                mean, std = (torch.tensor(x)[:, None, None] for x in (data.encoder.mean, data.encoder.std))
                seen = torch.from_numpy(np.asarray(picture.seen).copy()).permute(2, 0, 1) / 255
                assert torch.allclose((seen - mean) / std, next(pixels), atol=1e-5)
        assert next(pixels, None) is None


def test_what_was_cut_and_dropped_is_said(stage_data):
    shown = by_id(stage_data())
    assert shown["s0"].rounds == (1, 2) and shown["s0"].whole > 60 >= shown["s0"].tokens
    assert [p.shown for p in shown["s0"].pictures] == [True, False]
    assert shown["s0"].pictures[1].seen is None and shown["s0"].pictures[1].original is not None
    assert shown["s4"].rounds == (2, 3) and shown["s4"].pictures == () and shown["s4"].image_tokens == 0
    assert "first question and answer have" in shown["s2"].dropped and shown["s2"].rounds == (0, 1)
    assert shown["s1"].rounds == (1, 1) and not shown["s1"].dropped
    assert [p.shown for p in shown["s3"].pictures] == [True, True] and shown["s3"].image_tokens == 2 * N


def test_of_two_samples_with_one_id_only_the_dropped_one_is(stage_data):
    data = stage_data()
    reader = stage_reader(data)
    short, long = (s for s in data.samples[0] if s.id in ("s1", "s2"))
    assert isinstance(reader.encode(long), Unfit) and isinstance(reader.encode(replace(short, id="s2")), Tokens)


def test_what_stops_a_run_is_shown_not_raised(stage_data):
    shown = by_id(stage_data(over_length="fail"))
    assert "stage 's' allows 60" in shown["s0"].problems[0] and shown["s0"].spans == ()
    assert not shown["s1"].problems
    text_only = stage_data(tune={"vision": "absent", "connector": "absent", "llm": "full"})
    text_only.encoder = None
    assert "is text-only" in by_id(text_only)["s3"].problems[0]


def test_a_picture_that_cannot_be_read_is_named(stage_data, tmp_path):
    data = stage_data()
    (tmp_path / "3-1.png").unlink()
    good, bad = by_id(data)["s3"].pictures
    assert good.seen and bad.seen is None and "missing image" in bad.problem


def test_a_reader_of_ones_choice_reads_as_a_stage_would(stage_data):
    data = stage_data()
    reader = free_reader(data.prompter, data.encoder, "square", 60)
    for name, staged in by_id(data).items():
        sample = next(s for s in data.samples[0] if s.id == name)
        pictures = [(str(p), p.open) for p in sample.images]
        free = rendered(reader, sample, pictures, View(staged.position, "train", staged.record, name))
        assert (free.spans, free.tokens, free.rounds, free.dropped) == (
            staged.spans,
            staged.tokens,
            staged.rounds,
            staged.dropped,
        )


def test_an_answer_without_a_label_is_dropped_by_a_free_reader(stage_data, monkeypatch):
    data = stage_data()
    monkeypatch.setattr(data.prompter, "encode", lambda turns, max_length=None: Tokens([5, 6], [5, IGNORE]))
    reader = free_reader(data.prompter, None, "square", 60)
    shown = rendered(reader, Sample("x", tuple(TURNS[:2]), ()), [], View(0, "d", 0, "x"))
    assert shown.dropped == "no token of its answers is supervised"


def test_the_normalisation_is_taken_back_to_the_byte():
    entry = catalog.vision("clip-l-336")
    noise = np.random.default_rng(0).integers(0, 256, (336, 336, 3), np.uint8)
    assert np.array_equal(np.asarray(as_seen(preprocess(Image.fromarray(noise), entry), entry)), noise)
