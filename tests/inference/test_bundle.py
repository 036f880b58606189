"""A bundle answers as transformers would, and says what it was made from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from small_answerers import conversations

from remora.catalog import llm
from remora.data.images import preprocess
from remora.errors import DataError, TornArtifact
from remora.inference import Answerer, Bundle, read_bundle, write_bundle
from remora.model.llm import create_from_scratch
from remora.model.parts import PartRef, compose, save_part
from remora.model.vlm import place
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


def test_answers_are_those_of_transformers_own_generate(bundle: Path) -> None:
    answerer = Answerer.load(bundle)
    model, asked = answerer.model, conversations()
    answers = answerer.answer(asked, max_new_tokens=12)
    assert len({a.text for a in answers}) > 5, "the model says the same to everything: this test would see nothing"
    for conversation, answer in zip(asked[:8], answers, strict=False):
        ids = torch.tensor([answerer._row(conversation, 12).ids])
        inputs = model.llm.get_input_embeddings()(ids.clamp(min=0))
        if shown := [i for turn in conversation for i in turn.images]:
            pixels = torch.stack([preprocess(i, answerer.encoder, "pad") for i in shown])
            inputs = place(inputs, ids, model.image_embeddings(pixels))
        said = model.llm.generate(
            inputs_embeds=inputs, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        assert answer.text == answerer.prompter.tokenizer.decode(said[0], skip_special_tokens=True).strip()
        assert answer.prompt_tokens == ids.shape[1]


def test_a_bundle_refers_to_frozen_parts_and_refuses_a_changed_file(bundle: Path, tmp_path: Path) -> None:
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
