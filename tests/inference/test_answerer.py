"""Answers do not depend on how many questions are asked together, and a bundle says what it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from remora.catalog import llm
from remora.errors import DataError, TornArtifact
from remora.inference import Answerer, Bundle, Turn, read_bundle, write_bundle
from remora.model.llm import create_from_scratch
from remora.model.parts import PartRef, compose, save_part
from tiny import shrunk

WORDS = ["USER: What is this? ASSISTANT: a red circle", "USER: Which of these is it: a, b or c? ASSISTANT: blue"] * 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A variant with random weights: its answers are noise, which is what makes them sensitive."""
    root = tmp_path_factory.mktemp("bundle")
    small = {"config": shrunk(llm("demo-2m").config, 48, 64)}
    create_from_scratch(llm("demo-2m").model_copy(update=small), WORDS, 1, root / "start")
    parts = {
        "vision": PartRef("efficientnet-lite0"),
        "connector": PartRef("mlp2x_gelu"),
        "llm": PartRef("demo-2m", root / "start"),
    }
    model, tokenizer = compose(parts, 0)
    with torch.no_grad():  # larger layers than an initialisation gives: what was read, not the last word, decides
        for weight in model.llm.model.layers.parameters():
            weight.mul_(8)
    for part in ("connector", "llm"):
        save_part(part, model, model.part(part).state_dict(), tokenizer, root / "parts" / part)
    trained = {**parts, **{p: PartRef(parts[p].name, root / "parts" / p) for p in ("connector", "llm")}}
    write_bundle(root / "bundle", Bundle("noise", trained, "brief", "pad", 0), {})
    return root / "bundle"


def pictures(n: int) -> list[Image.Image]:
    return [Image.effect_mandelbrot((40 + i, 50), (-2 + i / 9, -1.5, 1, 1.5), 20).convert("RGB") for i in range(n)]


def conversations() -> list[list[Turn]]:
    shown = pictures(5)
    asked = []
    for i in range(32):
        images = ((), (shown[i % 5],), (shown[i % 5], shown[(i + 1) % 5]))[i % 3]
        text = "What is this?" + " Is it blue?" * (i % 4)
        earlier = [Turn("user", "What?", (shown[i % 5],)), Turn("assistant", "red")] if i % 7 == 0 else []
        asked.append([*earlier, Turn("user", text, images)])
    return asked


@pytest.mark.parametrize("together", [1, 2, 7, 32])
def test_answers_do_not_depend_on_the_batch(bundle: Path, together: int) -> None:
    answerer = Answerer.load(bundle)
    asked = conversations()
    alone = [answerer.answer([c], max_new_tokens=12)[0] for c in asked]
    assert len({a.text for a in alone}) > 5, "the model says the same to everything: this test would see nothing"
    batched = [a for i in range(0, 32, together) for a in answerer.answer(asked[i : i + together], max_new_tokens=12)]
    assert batched == alone


def test_answers_are_those_of_transformers_own_generate(bundle: Path) -> None:
    answerer = Answerer.load(bundle)
    for conversation in conversations()[:6]:
        ids = torch.tensor([answerer._encode(conversation, 12)])
        shown = [i for turn in conversation for i in turn.images]
        made = answerer._pictures(shown)
        from remora.model.vlm import place

        inputs = answerer.model.llm.get_input_embeddings()(ids.clamp(min=0))
        if shown:
            inputs = place(inputs, ids, torch.stack([made[id(i)] for i in shown]))
        expected = answerer.model.llm.generate(
            inputs_embeds=inputs, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        text = answerer.prompter.tokenizer.decode(expected[0], skip_special_tokens=True).strip()
        assert answerer.answer([conversation], max_new_tokens=12)[0].text == text


def test_sampling_follows_its_seed(bundle: Path) -> None:
    answerer = Answerer.load(bundle)
    ask = [[Turn("user", "What is this?", (pictures(1)[0],))]]
    said = [answerer.answer(ask, max_new_tokens=12, temperature=2.0, seed=s)[0].text for s in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_a_length_limit_is_told(bundle: Path) -> None:
    answerer = Answerer.load(bundle)
    (answer,) = answerer.answer([[Turn("user", "What is this?")]], max_new_tokens=1)
    assert answer.finish_reason in ("stop", "length")
    assert answer.completion_tokens == 1
    with pytest.raises(DataError, match="the model holds 512"):
        answerer.answer([[Turn("user", "What is this? " * 400)]], max_new_tokens=8)
    asked = [Turn("user", "What is this?", (pictures(1)[0],))]
    answerer.check(asked, answerer.room(asked))
    with pytest.raises(DataError, match="the model holds 512"):
        answerer.check(asked, answerer.room(asked) + 1)
    with pytest.raises(DataError, match="1 may follow, the model holds 512"):
        answerer.room([Turn("user", "What is this? " * 400)])
    with pytest.raises(DataError, match="ends with a user turn"):
        answerer.answer([[Turn("assistant", "red")]], max_new_tokens=8)


def test_a_bundle_refers_to_frozen_parts_and_refuses_a_changed_file(bundle: Path, tmp_path: Path) -> None:
    import shutil

    read = read_bundle(bundle, tmp_path)
    assert read.parts["vision"].folder is None
    assert read.parts["llm"].folder == bundle / "llm"
    copy = shutil.copytree(bundle, tmp_path / "copy")
    with (copy / "connector/model.safetensors").open("r+b") as f:
        f.seek(200)
        f.write(b"\x01")
    with pytest.raises(TornArtifact, match=r"connector/model\.safetensors does not match"):
        read_bundle(copy, tmp_path)
    with pytest.raises(DataError, match=r"no bundle\.json there"):
        read_bundle(tmp_path, tmp_path)
