"""A bundle gives transformers' answers, and names what it was made from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from remora.errors import DataError, TornArtifact
from remora.inference import Answerer, Request, read_bundle
from remora.model.vlm import place
from remora.reading.images import preprocess
from support.noise import write_noise
from support.small_answerers import conversations


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("bundle"))


@pytest.mark.slow
def test_answers_are_those_of_transformers_own_generate(bundle: Path) -> None:
    answerer = Answerer.load(bundle)
    model, asked = answerer.model, conversations()
    answers = answerer.answer([Request(conversation, 12) for conversation in asked])
    assert len({a.text for a in answers}) > 5, "the model says the same to everything: this test would see nothing"
    for conversation, answer in zip(asked[:8], answers, strict=False):
        ids = torch.tensor([answerer.prompt(conversation).ids])
        inputs = model.llm.get_input_embeddings()(ids.clamp(min=0))
        if shown := [i for turn in conversation for i in turn.images]:
            pixels = torch.stack([preprocess(i, answerer.encoder, "pad") for i in shown])
            inputs = place(inputs, ids, model.image_embeddings(pixels))
        said = model.llm.generate(
            inputs_embeds=inputs, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        assert answer.text == answerer.prompter.tokenizer.decode(said[0], skip_special_tokens=True).strip()
        assert answer.prompt_tokens == ids.shape[1]
        assert answer == answerer.answer_alone(Request(conversation, 12))


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
