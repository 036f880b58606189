"""Prefill and decoding on a fake GPU (docs/devices.md)."""

from __future__ import annotations

import pytest

pytest.importorskip("cuda_build", reason="torch is a CPU build here; next: make check-cuda", exc_type=ImportError)

import torch
from fake_cuda import CUDA, on_cuda
from fake_models import LLMS, model_of
from PIL import Image

from remora import catalog
from remora.inference import AnswerEngine, Answerer, Message, Request
from remora.model.vlm import VisionLanguageModel
from remora.reading.prompt import Prompter
from support.standins import small_vision

PICTURE = Image.new("RGB", (40, 30), (200, 30, 30))
ASKED = [
    Request([Message("user", "What is in the picture?", (PICTURE,))], 2),
    Request(
        [Message("user", "What is in the picture? Is it blue?", (PICTURE,))], 3, temperature=0.7, top_p=0.9, seed=1
    ),
    Request([Message("user", "Is it a circle?")], 3, frequency_penalty=0.5, logit_bias=((7, 2.0),)),
]


def answerer_of(model: VisionLanguageModel, tokenizer, dtype: torch.dtype, monkeypatch) -> Answerer:
    """On the CPU: whether prompts of unequal lengths can join is tried with real numbers."""
    encoder = small_vision(catalog.vision("siglip-so400m-384"))
    monkeypatch.setattr(catalog, "vision", lambda name: encoder)
    prompter = Prompter(catalog.template("brief"), tokenizer, model.image_tokens)
    return Answerer("tiny", model.to(dtype), prompter, "here")


CASES = [(name, torch.bfloat16, False) for name in LLMS]
CASES += [("demo-2m", torch.float32, False), ("demo-2m", torch.float16, True), ("phi-3-mini-4k", torch.float32, True)]


@pytest.mark.parametrize(("name", "dtype", "near"), CASES)
def test_requests_join_say_and_leave(name, dtype, near, tiny_tokenizer, monkeypatch):
    model = model_of(llm=name)
    answerer = answerer_of(model, tiny_tokenizer, dtype, monkeypatch)
    requests = [Request(answerer.prompt(r.conversation), **settings(r)) for r in ASKED]
    with on_cuda(model, near=near):
        engine = AnswerEngine(answerer)
        numbers = {engine.add(request): request for request in requests}
        events = []
        while engine.busy:
            events += engine.step()
            held = [t for layer in engine._slots.cache._layers if layer for t in layer] if engine._slots else []
            assert all(t.device == CUDA and t.dtype == dtype for t in held)
    assert {event.request for event in events if event.answer} == set(numbers)
    assert engine.stats.near_ties == (len(events) if near else 0)


def settings(request: Request) -> dict[str, object]:
    return {name: value for name, value in vars(request).items() if name != "conversation"}


def test_pictures_go_where_the_model_is(tiny_tokenizer, monkeypatch):
    model = model_of()
    answerer = answerer_of(model, tiny_tokenizer, torch.bfloat16, monkeypatch)
    with on_cuda(model):
        (shown,) = answerer.embeddings([answerer.picture(PICTURE)])
    assert shown.device == CUDA and shown.dtype == torch.bfloat16
