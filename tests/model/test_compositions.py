"""Compositions that the catalog allows can train and answer, with small stand-ins of the same classes.

Every encoder meets every language model, and every connector each of both; `make fuzz` tries all three-way choices.
"""

from __future__ import annotations

import functools
import json
import os

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM

from remora import catalog
from remora.data.conversation import Turn
from remora.inference import Answerer, Message, Request
from remora.model.connectors import build_connector
from remora.model.llm import train_tokenizer
from remora.model.tuning import freeze_and_train
from remora.model.vision import build_tower
from remora.model.vlm import VisionLanguageModel
from remora.planning import compositions
from remora.reading.batches import collate
from remora.reading.images import preprocess
from remora.reading.prompt import Prompter
from remora.spec import Tuning
from support.standins import VOCABULARY, small_connector, small_llm, small_vision

pytestmark = pytest.mark.slow
EVERY = 1 if "REMORA_FUZZ_CASES" in os.environ else 4
"""One in so many connectors of a pair is tried, other ones with each neighbour."""
LEGAL = {names: embeddings for names, (embeddings, _) in compositions().items() if embeddings}
TURNS = (Turn("user", "What is in the picture?", 1), Turn("assistant", "a red circle"))


def _key(entry):
    said = entry.model_dump(mode="json", include={"loader", "config", "tokens", "layer", "prefix", "scales"})
    said = said or entry.model_dump(mode="json", exclude={"short", "source"})
    return json.dumps(said, sort_keys=True)


@functools.cache
def _classes(kind, small):
    """Stand-in -> the entries that it represents: two checkpoints of one architecture are one case."""
    groups: dict[str, tuple[object, list[str]]] = {}
    for name in catalog.entries(kind):
        entry = small(catalog.entries(kind)[name])
        key = _key(entry)
        if kind == "llm":
            # What decides which code runs; sizes are alike by now, and constants (rope's base, epsilons) are no code.
            config = entry.config
            grouped = config.get("num_key_value_heads", 4) < 4
            key = json.dumps([config["model_type"], config.get("tie_word_embeddings", False), grouped])
        groups.setdefault(key, (entry, []))[1].append(name)
    return list(groups.values())


VISION, LLMS = _classes("vision", small_vision), _classes("llm", small_llm)


@functools.cache
def _tower(i):
    torch.manual_seed(0)
    return build_tower(VISION[i][0], pretrained=False)


@functools.cache
def _llm(i):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLMS[i][0].config), attn_implementation="sdpa")


@functools.cache
def _tokenizer():
    return train_tokenizer(["USER: What is in the picture? ASSISTANT: a red circle"], VOCABULARY)


@pytest.mark.parametrize("llm", range(len(LLMS)), ids=[names[0] for _, names in LLMS])
@pytest.mark.parametrize("vision", range(len(VISION)), ids=[names[0] for _, names in VISION])
def test_every_legal_composition_trains_and_answers(vision, llm, monkeypatch):
    encoder, encoders = VISION[vision]
    _, models = LLMS[llm]
    monkeypatch.setattr(catalog, "vision", lambda name: encoder)
    picture = Image.effect_mandelbrot((50, 40), (-2, -1.5, 1, 1.5), 20).convert("RGB")
    legal = [c for c in catalog.entries("connectors") if any((v, c, m) in LEGAL for v in encoders for m in models)]
    assert len(legal) >= 7  # the connectors without a grid fit everything
    for connector in legal[(vision + llm) % EVERY :: EVERY]:
        embeddings = next(LEGAL[v, connector, m] for v in encoders for m in models if (v, connector, m) in LEGAL)
        entry = small_connector(catalog.connector(connector))
        module = build_connector(entry, encoder.width, 16) if entry.kind != "identity" else torch.nn.Identity()
        model = VisionLanguageModel(_llm(llm), _tower(vision), module, encoder.input_size, embeddings)
        prompter = Prompter(catalog.template("brief"), _tokenizer(), embeddings)
        batch = collate([(prompter.encode(TURNS), [preprocess(picture, encoder)])], 1, encoder.input_size)
        freeze_and_train(model, Tuning(vision="full", connector="full", llm="full"))
        model.zero_grad()
        loss = model(batch)
        loss.backward()
        assert torch.isfinite(loss), connector
        for part in ("vision", "connector", "llm"):
            grads = [p.grad for p in model.part(part).parameters()]
            assert all(g is None or torch.isfinite(g).all() for g in grads), (connector, part)
            if grads:
                assert any(g is not None and g.abs().sum() > 0 for g in grads), (connector, part)
        answerer = Answerer("tiny", model, prompter, "standing-in")
        (answer,) = answerer.answer([Request([Message("user", "What is it?", (picture,))], 2)])
        assert answer.prompt_tokens > embeddings and 1 <= answer.completion_tokens <= 2
