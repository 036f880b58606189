"""Activation checkpointing changes no bit of a loss or gradient, in every class of the catalog, and keeps less."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from remora import catalog
from remora.batch import Batch
from remora.model.blocks import blocks_of
from remora.model.patches.activations import checkpoint_activations, plain_name
from remora.model.patches.attention import attend_per_sample
from remora.model.tuning import freeze_and_train
from remora.model.vision import Unread, build_tower
from remora.model.vlm import VisionLanguageModel
from remora.reading.batches import collate
from remora.reading.prompt import Tokens
from remora.spec import Lora, PartTuning, Tuning
from remora.token_ids import IMAGE
from support.standins import small_llm, small_vision


def distinct(kind: str, small) -> list[str]:
    """A name for every architecture that the catalog's entries shrink to."""
    found: dict[str, str] = {}
    for name, entry in catalog.entries(kind).items():
        found.setdefault(json.dumps(small(entry).config, sort_keys=True), name)
    return list(found.values())


def model_of(vision: str = "siglip-so400m-384", llm: str = "demo-2m") -> VisionLanguageModel:
    torch.manual_seed(0)
    encoder = small_vision(catalog.vision(vision))
    config = AutoConfig.for_model(**small_llm(catalog.llm(llm)).config)
    tower = build_tower(encoder, pretrained=encoder.loader == "efficientnet-lite")
    language = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return VisionLanguageModel(language, tower, nn.Linear(encoder.width, 16), encoder.input_size, encoder.tokens)


def batch_of(model: VisionLanguageModel, rows: str) -> Batch:
    draw = torch.Generator().manual_seed(1)
    shown = [IMAGE] * model.image_tokens
    samples = []
    for length, pictures in ((7, 1), (9, 0), (4, 1)):
        text = torch.randint(2, 300, (length,), generator=draw).tolist()
        ids = text[:2] + shown * pictures + text[2:]
        labels = [-100] * (len(ids) - 2) + ids[-2:]
        side = model.image_size
        samples.append((Tokens(ids, labels, pictures), [torch.rand(3, side, side, generator=draw)] * pictures))
    return collate(samples, 1, model.image_size, [4, 8, 15], rows)


def passed(model: VisionLanguageModel, tuning: Tuning, rows: str, checkpointed: bool):
    """(loss, gradients, {(part, block): calls}) of one forward and backward pass."""
    freeze_and_train(model, tuning)
    if rows == "packed":
        attend_per_sample(model.llm)
    calls: Counter[tuple[str, int]] = Counter()
    for part in ("vision", "llm"):
        for i, block in enumerate(blocks_of(model.part(part))[0]):
            if not isinstance(block, Unread):
                inner = next(m for m in block.modules() if not any(True for _ in m.children()))
                inner.register_forward_hook(lambda *_, at=(part, i): calls.update([at]))
    if checkpointed:
        checkpoint_activations(model)
    loss = model(batch_of(model, rows))
    loss.backward()
    return loss, {plain_name(n): p.grad for n, p in model.named_parameters() if p.requires_grad}, calls


def same(a: dict[str, torch.Tensor | None], b: dict[str, torch.Tensor | None]) -> None:
    assert a.keys() == b.keys() and any(g is not None for g in a.values())
    for name, gradient in a.items():
        assert (gradient is None) == (b[name] is None), name
        assert gradient is None or torch.equal(gradient, b[name]), name


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rows", ["packed", "padded"])
@pytest.mark.parametrize("llm", distinct("llm", small_llm))
def test_every_language_model_has_the_same_loss_and_gradients(llm, rows):
    tuning = Tuning(vision="frozen", connector="full", llm="full")
    plain, checkpointed = (passed(model_of(llm=llm), tuning, rows, on) for on in (False, True))
    assert torch.equal(plain[0], checkpointed[0])
    same(plain[1], checkpointed[1])
    assert {at: n for at, n in checkpointed[2].items() if at[0] == "llm"} == {("llm", 0): 2, ("llm", 1): 1}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("vision", distinct("vision", small_vision))
def test_every_encoder_has_the_same_loss_and_gradients(vision):
    tuning = Tuning(vision={"last": 2}, connector="full", llm="frozen")
    plain, checkpointed = (passed(model_of(vision), tuning, "padded", on) for on in (False, True))
    assert torch.equal(plain[0], checkpointed[0])
    same(plain[1], checkpointed[1])
    again = [i for (part, i), n in checkpointed[2].items() if part == "vision" and n > plain[2][part, i]]
    blocks = len(blocks_of(model_of(vision).vision)[0])
    assert again == [i for i in (blocks - 2, blocks - 1) if ("vision", i) in plain[2]]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("rows", ["packed", "padded"])
def test_dropout_is_computed_again_with_the_same_masks(rows):
    lora = PartTuning(mode="lora", lora=Lora(r=2, alpha=4, dropout=0.3))

    assert model_of(llm="phi-2").llm.base_model.layers[0].resid_dropout.p > 0
    for how in (lora, PartTuning(mode="full")):
        tuning = Tuning(vision="frozen", connector="full", llm=how)
        plain, checkpointed = (passed(model_of(llm="phi-2"), tuning, rows, on) for on in (False, True))
        assert torch.equal(plain[0], checkpointed[0])
        same(plain[1], checkpointed[1])


def test_a_frozen_language_model_is_computed_again_for_the_connector_and_blocks_without_gradients_are_not():
    """The switch of transformers asks for training mode, which a frozen model is not in; its activations are kept."""
    align = Tuning(vision="frozen", connector="full", llm="frozen")
    _, _, calls = passed(model_of(), align, "packed", True)
    again = [n for (part, _), n in sorted(calls.items()) if part == "llm"]
    assert again == [2] * (len(again) - 1) + [1]
    assert {n for (part, _), n in calls.items() if part == "vision"} == {1}
