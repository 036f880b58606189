"""Conversations that are too long are cut at the end of a round, or dropped if none fits, the same on every rank."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from prompt_tokenizers import MAKERS

from remora import catalog
from remora.data.conversation import Turn
from remora.data.mixture import read_mixture
from remora.errors import DataError
from remora.reading.batches import StageData
from remora.reading.prompt import OverLength, Prompter, Tokens
from remora.reading.truncation import Unfit
from remora.spec import Stage
from remora.token_ids import IGNORE, IMAGE

N = 4
"""Image tokens."""
TURNS = [
    Turn("user", "What is it?", 1),
    Turn("assistant", "a red circle"),
    Turn("user", "And here?", 2),
    Turn("assistant", "two cats"),
    Turn("user", "So?"),
    Turn("assistant", "yes"),
]


def prompter(template: str, name: str = "vicuna") -> Prompter:
    tokenizer = MAKERS[name]()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
    return Prompter(catalog.template(template), tokenizer, N)


@pytest.mark.parametrize("template", catalog.entries("templates"))
def test_a_cut_conversation_is_the_longest_beginning_of_whole_rounds_that_fits(template):
    made = prompter(template)
    beginnings = [made.encode(TURNS[:n]) for n in (2, 4, 6)]
    lengths = [len(b.ids) for b in beginnings]
    assert lengths == sorted(set(lengths)) and [b.images for b in beginnings] == [1, 3, 3]
    for limit in range(lengths[0], lengths[2] + 2):
        fitting = [b for b in beginnings if len(b.ids) <= limit]
        cut = made.encode(TURNS, limit)
        assert cut == fitting[-1]
        assert cut.ids.count(IMAGE) == N * cut.images and any(label != IGNORE for label in cut.labels)
    with pytest.raises(OverLength, match=rf"have {lengths[0]} tokens, of {lengths[0] - 1} allowed"):
        made.encode(TURNS, lengths[0] - 1)


def test_of_a_long_conversation_the_last_round_that_fits_is_found():
    made = prompter("vicuna", "qwen2")
    turns = [t for i in range(40) for t in (Turn("user", "What? " * (i % 7)), Turn("assistant", "yes " * (i % 5 + 1)))]
    lengths = [len(made.encode(turns[: 2 * n]).ids) for n in range(1, 41)]
    for limit in range(lengths[0], lengths[-1], 13):
        assert len(made.encode(turns, limit).ids) == max(x for x in lengths if x <= limit)


# A stage's data.

SAID = [
    [("What is it?", "a red circle", 1), ("And this?", "two cats " * 20, 1)],
    [("Is it red?", "yes", 0)],
    [("What is it? " * 40, "a dog", 1)],
    [("Count:", "1 2 3 " * 60, 0), ("And?", "4", 0)],
    [("How many?", "two", 1)],
    [("Hello", "yes yes", 0), ("So", "no", 0), ("And", "It is " * 80, 0)],
    [("What is it?", "a cat", 2)],
]
"""Sample 0 and 5 lose rounds; 2 and 3 have a first round that does not fit."""


@pytest.fixture
def stage_data(tmp_path):
    records = []
    for number, rounds in enumerate(SAID):
        turns, images = [], []
        for question, answer, shown in rounds:
            turns += [
                {"from": "human", "value": "<image>\n" * shown + question},
                {"from": "gpt", "value": answer.strip()},
            ]
            for _ in range(shown):
                images.append(f"{number}-{len(images)}.png")
                Image.new("RGB", (8, 8), (30 * number, 60 * len(images), 9)).save(tmp_path / images[-1])
        records.append({"id": f"s{number}", "image": images, "conversations": turns})
    (tmp_path / "train.json").write_text(json.dumps(records))

    def make(context=None, **changes) -> StageData:
        stage = {"name": "s", "mixture": [{"path": str(tmp_path / "train.json")}], "template": "brief"}
        stage |= {"batch": len(SAID), "epochs": 1, "lr": 1e-3, "max_length": 60, **changes}
        checked = Stage.model_validate(stage)
        data = StageData(
            checked, read_mixture(checked.mixture, tmp_path), prompter("brief", "stablelm"), None, 5, context
        )
        data.encoder = catalog.vision("efficientnet-lite0").model_copy(update={"image_size": 8})
        return data

    return make


def test_cut_and_dropped_samples_of_a_step_are_the_same_on_one_rank_and_on_two(stage_data):
    def read(world: int, size: int, layout: str):
        data = stage_data()
        batches, dropped, passes = [], [], set()
        for rank in range(world):
            own = stage_data()
            mine = own.read(0, rank, world, size, layout)
            batches += mine.batches
            passes.add(len(mine.batches))
            dropped.append(mine.dropped)
        assert len(passes) == 1 and all(d == dropped[0] for d in dropped)  # every rank knows of all
        samples = [s for b in batches for row in b.labels for s in row.split(b.lengths or [len(row)])]
        rows = sorted(tuple(s[s != IGNORE].tolist()) for s in samples)
        pictures = sorted(tuple(p.flatten().tolist()) for b in batches for p in b.pixels if b.supervised)
        assert all((b.ids == IMAGE).sum() == N * len(b.pixels) for b in batches)
        assert data.steps == 1
        return sum(b.supervised for b in batches), [r for r in rows if r], pictures, dropped[0]

    one = read(1, len(SAID), "padded")
    assert read(2, len(SAID), "padded") == read(2, 2, "padded") == read(1, 3, "padded") == one
    assert read(1, 1, "packed") == read(2, 1, "packed") == read(2, 2, "packed") == read(8, 1, "packed") == one
    tokens, rows, pictures, dropped = one
    assert set(dropped) == {"s2", "s3"} and all("first question and answer" in why.reason for why in dropped.values())
    assert len(rows) == 5 and tokens == sum(len(r) for r in rows)
    assert len(pictures) == 4  # only the first of sample 0, one of 4, two of 6


def test_a_dropped_sample_is_a_row_of_one_token_without_a_label(stage_data):
    data = stage_data()
    (batch,) = data.read(0, 0, 1, len(SAID), "padded").batches
    assert len(batch.ids) == len(SAID)
    rows = [data.sample(p).id for p in data.positions(0)]
    for name in ("s2", "s3"):
        row = rows.index(name)  # one group holds all, in the order of the step
        assert batch.mask[row].sum() == 1 and batch.ids[row].eq(data.pad).all() and batch.labels[row].eq(IGNORE).all()
    (packed,) = data.read(0, 0, 1, len(SAID), "packed").batches
    assert len(packed.lengths) == len(SAID) - 2  # in a packed row it has no place at all
    assert packed.ids[0].tolist() == batch.ids[batch.mask.sum(1) > 1][batch.mask[batch.mask.sum(1) > 1] == 1].tolist()
    whole = next(d for d in data.samples[0] if d.id == "s1")
    assert data.encode(whole) == data.prompter.encode(whole.turns)


def test_a_step_of_dropped_samples_alone_goes_through_a_model_without_a_loss(stage_data, tiny_model):
    data = stage_data(max_length=8)
    read = data.read(0, 0, 1, len(SAID), "padded")
    (batch,) = read.batches
    assert set(read.dropped) == {f"s{n}" for n in range(len(SAID))} and batch.supervised == 0 and len(batch.pixels) == 0
    batch.ids.zero_()  # the tiny model's vocabulary is smaller
    loss = tiny_model(batch)
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or not p.grad.any() for p in tiny_model.parameters())


def test_fail_names_the_sample_and_both_lengths(stage_data):
    data = stage_data(over_length="fail")
    with pytest.raises(DataError, match=r"sample 's\d' has \d+ tokens, stage 's' allows 60; raise max_length"):
        data.read(0, 0, 1, len(SAID), "padded")
    data = stage_data(over_length="fail", max_length=2000)
    assert not data.read(0, 0, 1, len(SAID), "padded").dropped


def test_a_models_context_limits_a_stage_too(stage_data):
    data = stage_data(context=60, max_length=2000)
    assert set(data.read(0, 0, 1, len(SAID), "padded").dropped) == {"s2", "s3"}


@pytest.mark.parametrize("over_length", ["cut", "fail"])
def test_a_sample_that_teaches_nothing_is_named(stage_data, over_length, monkeypatch):
    data = stage_data(over_length=over_length)
    silent = Tokens([5, 6, 7], [5, IGNORE, IGNORE])  # a label in the first place has nothing before it
    monkeypatch.setattr(data.prompter, "encode", lambda *_: silent)
    sample = data.samples[0][1]
    if over_length == "fail":
        with pytest.raises(DataError, match="sample 's1': no token of its answers is supervised"):
            data.encode(sample)
    else:
        assert data.encode(sample) == Unfit("no-supervised-token", "no token of its answers is supervised")
