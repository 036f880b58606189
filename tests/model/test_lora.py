"""Adapters: what trains, that they merge to what peft makes of them, and that they go through a stage run's files."""

from __future__ import annotations

import copy
import json
import sys

import pytest
import torch
from peft import PeftModel
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from remora.errors import DataError, SpecError
from remora.model.lora import CONFIG, WEIGHTS, add_adapter, linear_layers, merge_adapter, save_adapter
from remora.model.patches.dropout import key_dropouts
from remora.model.tuning import freeze_and_train, tuning_table
from remora.model.vision import build_tower
from remora.spec import Lora, Stage, Tuning
from support.encoders import entry

LORA = Lora(r=4, alpha=8, dropout=0.0)


def adapter_of(module):
    return {n: p.detach().clone() for n, p in module.named_parameters() if ".lora_" in n}


@pytest.fixture
def adapted(tiny_model, tmp_path):
    """The tiny language model with a trained-looking adapter, its folder, and the logits it gives."""
    llm = tiny_model.llm.eval()
    llm.save_pretrained(tmp_path / "base")
    add_adapter("llm", llm, LORA, seed=3)
    with torch.no_grad():
        for name, parameter in llm.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    (tmp_path / "adapter").mkdir()
    save_adapter(adapter_of(llm), LORA, tmp_path / "adapter")
    return llm(torch.arange(12)[None]).logits, tmp_path


def test_only_adapters_train_on_every_linear_layer_but_the_head(tiny_model):
    names = list(linear_layers(tiny_model.llm))
    assert len(names) == 2 * 7 and not any("head" in n for n in names)
    freeze_and_train(tiny_model, Tuning(llm={"lora": LORA.model_dump()}))
    trained = [n for n, p in tiny_model.llm.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(names) and all(".lora_" in n for n in trained)
    stage = Stage(name="s", mixture=["x"], lr=1e-3, steps=1, tune={"llm": {"lora": LORA.model_dump(), "lr": 2e-4}})
    row = tuning_table(tiny_model, stage)[-1]
    assert (row.mode, row.lr) == ("lora r=4", 2e-4)
    assert row.trained == 2 * 4 * (4 * (16 + 16) + 3 * (16 + 32))


def test_a_new_adapter_changes_nothing_and_follows_from_its_seed(tiny_model):
    ids = torch.arange(12)[None]
    tiny_model.llm.eval()
    plain = copy.deepcopy(tiny_model.llm)
    before = tiny_model.llm(ids).logits
    state = torch.get_rng_state()
    add_adapter("llm", tiny_model.llm, LORA, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(tiny_model.llm(ids).logits, before)
    drawn = adapter_of(tiny_model.llm)
    a = torch.cat([t.flatten() for n, t in drawn.items() if "lora_A" in n and "down_proj" not in n])
    # Kaiming uniform with a = sqrt(5) is uniform in +-1/sqrt(16)
    assert 0.24 < a.abs().max() <= 0.25
    again, other = copy.deepcopy(plain), copy.deepcopy(plain)
    add_adapter("llm", again, LORA, seed=3)
    add_adapter("llm", other, LORA, seed=4)
    assert all(torch.equal(t, drawn[n]) for n, t in adapter_of(again).items())
    assert not any(torch.equal(t, drawn[n]) for n, t in adapter_of(other).items() if "lora_A" in n)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_reads_what_was_saved_and_merging_gives_the_same_logits(adapted):
    logits, folder = adapted
    ids = torch.arange(12)[None]
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, folder / "adapter").eval()
    assert torch.allclose(theirs(ids).logits, logits, atol=1e-6)
    merged = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
    assert not torch.allclose(merged(ids).logits, logits, atol=1e-3)
    merge_adapter(merged, folder / "adapter")
    # B A is added once in fp32 instead of in every layer's output: only rounding differs
    assert torch.allclose(merged(ids).logits, logits, atol=1e-5)


def test_an_adapter_of_another_model_is_refused(adapted):
    _, folder = adapted
    wider = LlamaConfig(**LlamaConfig.from_pretrained(folder / "base").to_dict() | {"intermediate_size": 40})
    with pytest.raises(DataError, match=r"layer model.layers.0.mlp.down_proj has shape \(16, 40\) .* another one"):
        merge_adapter(LlamaForCausalLM(wider), folder / "adapter")
    shorter = LlamaConfig(**LlamaConfig.from_pretrained(folder / "base").to_dict() | {"num_hidden_layers": 1})
    with pytest.raises(DataError, match=r"layer model.layers.1.* does not exist in this model"):
        merge_adapter(LlamaForCausalLM(shorter), folder / "adapter")


def test_targets_are_names_of_layers(tiny_model):
    add_adapter("llm", tiny_model.llm, LORA.model_copy(update={"targets": ("q_proj", "v_proj")}), seed=0)
    assert {n.split(".")[-4] for n in adapter_of(tiny_model.llm)} == {"q_proj", "v_proj"}
    with pytest.raises(SpecError, match=r"'up_prj' is not a linear layer; did you mean 'up_proj'.*llm has .*up_proj"):
        add_adapter("llm", tiny_model.llm, LORA.model_copy(update={"targets": ("up_prj",)}), seed=0)


@pytest.mark.parametrize(("bits", "error"), [(4, 0.25), (8, 0.03)])
def test_a_quantised_base_is_near_the_full_one_and_its_adapters_train(tiny_model, bits, error):
    pytest.importorskip("bitsandbytes")
    ids = torch.arange(12)[None]
    before = tiny_model.llm.eval()(ids).logits.detach()
    add_adapter("llm", tiny_model.llm, LORA.model_copy(update={"bits": bits}), seed=0)
    after = tiny_model.llm(ids).logits
    assert 0 < (after - before).norm() / before.norm() < error
    F.cross_entropy(after[0], ids[0]).backward()
    grads = {n: p.grad for n, p in tiny_model.llm.named_parameters() if p.requires_grad}
    assert all(".lora_" in n and g is not None for n, g in grads.items())
    assert any(g.abs().sum() > 0 for n, g in grads.items() if "lora_B" in n)


def test_a_base_of_4_bits_is_the_same_after_a_pass_in_eval_mode_on_a_cpu_with_avx512_bf16(tiny_model, monkeypatch):
    bnb = pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    ids = torch.arange(12)[None]
    add_adapter("llm", tiny_model.llm, LORA.model_copy(update={"bits": 4}), seed=0)
    before = tiny_model.llm.train()(ids).logits.detach()
    with torch.no_grad():
        assert torch.equal(tiny_model.llm.eval()(ids).logits, before)
    after = tiny_model.llm.train()(ids).logits
    assert torch.equal(after, before)
    F.cross_entropy(after[0], ids[0]).backward()
    lowest = {n: p.grad for n, p in tiny_model.llm.named_parameters() if "layers.0" in n and "lora_B" in n}
    assert all(g.abs().sum() > 0 for g in lowest.values())  # the backward went through every layer above


def test_bits_without_bitsandbytes_say_what_to_install(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SpecError, match=r"tune.llm: bits: 4 needs bitsandbytes.*remora\[quantized\]"):
        add_adapter("llm", tiny_model.llm, LORA.model_copy(update={"bits": 4}), seed=0)


def test_the_saved_layout_is_pefts(adapted):
    _, folder = adapted
    said = json.loads((folder / "adapter" / CONFIG).read_text())
    assert (said["peft_type"], said["r"], said["lora_alpha"]) == ("LORA", 4, 8)
    assert (folder / "adapter" / WEIGHTS).exists()


def test_an_encoders_adapter_trains_and_is_merged_when_the_part_is_loaded_again(tmp_path):
    facts = entry("clip_vision_model", layer=-2)
    torch.manual_seed(0)
    tower, plain = build_tower(facts, pretrained=False), build_tower(facts, pretrained=False)
    plain.load_state_dict(tower.state_dict())
    add_adapter("vision", tower, LORA.model_copy(update={"dropout": 0.5}), seed=0)
    with torch.no_grad():
        for p in (p for n, p in tower.named_parameters() if ".lora_B" in n):
            p.normal_(std=0.2)
    # Three of the four blocks are read: q, k, v, out and two of the MLP in each.
    assert len(adapter_of(tower)) == 2 * 3 * 6
    dropouts = key_dropouts(tower)
    assert dropouts and all(d.training for d in dropouts)
    pixels = torch.randn(2, 3, 30, 30)
    for dropout in dropouts:
        dropout.eval()
    save_adapter(adapter_of(tower), LORA, tmp_path)
    merge_adapter(plain, tmp_path)
    assert torch.allclose(plain(pixels), tower(pixels), atol=1e-5)
    tower(pixels).sum().backward()
    assert all((p.grad is not None) == (".lora_" in n) for n, p in tower.named_parameters())
