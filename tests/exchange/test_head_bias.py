"""Phi as LLaVA-style code trains it: the head is one matrix from the first step to the export, and stays one."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from test_import_published import known, llm_entry  # noqa: F401
from transformers import AutoProcessor, LlavaForConditionalGeneration

from remora import catalog
from remora.batch import Batch
from remora.inference.bundle import Bundle, read_bundle, write_bundle
from remora.inference.exporting import export_bundle
from remora.model.averaging import average_folders
from remora.model.llm import load_llm
from remora.model.parts import compose, save_parts, sketch
from remora.model.refs import PartRef
from support.exchange_fake import MLP2, encoder, tiny_vlm

HEAD = "lm_head.bias"


@pytest.fixture
def bundle(tmp_path, known, monkeypatch):  # noqa: F811
    """A bundle of parts at their hubs, whose language model's files have a bias in the head."""
    model, tokenizer = tiny_vlm("siglip", "phi")
    model.llm.lm_head.bias.data.normal_()
    model.llm.save_pretrained(tmp_path / "tiny/phi")
    tokenizer.save_pretrained(tmp_path / "tiny/phi")
    model.vision.module.save_pretrained(tmp_path / "tiny/siglip")
    monkeypatch.chdir(tmp_path)
    known["llm"]["phi-no-bias"] = llm_entry("phi").model_copy(update={"head_bias": False})

    def made(llm):
        parts = {
            "vision": PartRef("siglip"),
            "connector": PartRef("mlp2x_gelu"),
            "llm": PartRef(llm, tmp_path / "tiny/phi"),
        }
        return Bundle("made", parts, "vicuna", "square", 0)

    return made


def a_step(model):
    """One step of all weights on a supervised row."""
    ids = torch.arange(2, 14)[None]
    row = Batch(ids, torch.ones_like(ids), ids, torch.zeros(0, 3, 16, 16), torch.zeros(1), torch.zeros(0))
    model.train()
    optimizer = torch.optim.SGD(model.llm.parameters(), lr=0.5)
    model(row).backward()
    optimizer.step()
    return model.eval()


@pytest.mark.slow
def test_the_bias_is_never_loaded_trained_or_exported(tmp_path, bundle):
    made = bundle("phi-no-bias")
    model, tokenizer = compose(made.parts, 0)
    assert HEAD not in dict(model.llm.named_parameters())
    with_bias, _ = compose(bundle("phi").parts, 0)
    assert bool(with_bias.llm.lm_head.bias.any()), "the entry with a bias keeps it"
    a_step(model)
    save_parts(model, tokenizer, tmp_path / "trained")
    held = load_file(tmp_path / "trained/llm/model.safetensors")
    assert not held[HEAD].any(), "zeros, so that whoever loads Phi's class loads this model"
    parts = {part: PartRef(ref.name, tmp_path / "trained" / part) for part, ref in made.parts.items()}
    write_bundle(tmp_path / "out", Bundle("made", parts, "vicuna", "square", 0), {})
    again, _ = compose(read_bundle(tmp_path / "out", tmp_path).parts, 0)
    assert HEAD not in dict(again.llm.named_parameters())
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        expected = model.llm(input_ids=ids).logits
        torch.testing.assert_close(again.llm(input_ids=ids).logits, expected)
        plain, _ = load_llm(tmp_path / "trained/llm")
        torch.testing.assert_close(plain(input_ids=ids).logits, expected)
    assert export_bundle(tmp_path / "out", tmp_path / "stock", tmp_path).layout == "llava"
    stock = LlavaForConditionalGeneration.from_pretrained(tmp_path / "stock")
    AutoProcessor.from_pretrained(tmp_path / "stock")
    with torch.no_grad():
        torch.testing.assert_close(stock(input_ids=ids).logits[..., :340], expected, rtol=1e-5, atol=1e-5)
    average_folders([tmp_path / "trained/llm"] * 2, [0.5, 0.5], tmp_path / "mean")
    assert not load_file(tmp_path / "mean/model.safetensors")[HEAD].any()


def test_with_its_bias_a_trained_phi_has_no_stock_layout(tmp_path, bundle):
    write_bundle(tmp_path / "out", bundle("phi"), {})
    made = export_bundle(tmp_path / "out", tmp_path / "own", tmp_path)
    assert made.layout == "remora" and "has a bias" in made.reason


def test_it_is_not_counted(known):  # noqa: F811
    entry = llm_entry("phi")
    whole = sketch(encoder("siglip"), MLP2, entry)
    less = sketch(encoder("siglip"), MLP2, entry.model_copy(update={"head_bias": False}))
    count = [sum(p.numel() for p in m.llm.parameters()) for m in (whole, less)]
    assert count[0] - count[1] == 340


def test_the_published_models_on_phi_name_it_as_their_code_does():
    on_phi = ("phi-2", "phi-1.5")  # Phi-3's class has no bias there
    named = {name: e.llm for name, e in catalog.entries("published").items() if e.llm.startswith(on_phi)}
    without = {name for name, llm in named.items() if catalog.llm(llm).head_bias is False}
    assert len(without) == 8 and not any("Factory" in name for name in without), "Factory takes the class as it is"
    assert all(name.startswith(("Mipha", "TinyLLaVA-Factory")) for name in set(named) - without)
