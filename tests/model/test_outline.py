"""Outlines: what is counted without weights is what a loss reaches and what training sets free."""

from __future__ import annotations

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from encoders import CONFIGS, entry
from remora import catalog
from remora.catalog import LLM
from remora.model.outline import llm_outline, vision_outline
from remora.model.vision import build_tower
from remora.spec import PartTuning

LLMS = {
    "llama": {"model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True},
    "phi": {"model_type": "phi", "num_key_value_heads": 2},
    "gpt_neox": {"model_type": "gpt_neox"},
    "stablelm": {"model_type": "stablelm", "num_key_value_heads": 2, "use_qkv_bias": True},
}


def llm_entry(name) -> LLM:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LLMS[name] | sizes | {"vocab_size": 40, "max_position_embeddings": 32}
    return LLM.model_validate(catalog.llm("phi-2").model_dump() | {"config": config})


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_encoder_trains_what_the_features_gradient_reaches(kind, layer):
    facts = entry(kind, layer=layer)
    outline = vision_outline(facts)
    tower = build_tower(facts, pretrained=False)
    side = facts.image_size
    for how, free in ({"mode": "full"}, r""), ({"from": 1}, r"layers?\.[123]\."), ({"last": 3}, r"layers?\.[123]\."):
        tower.zero_grad()
        for name, p in tower.named_parameters():
            p.requires_grad_(bool(re.search(free, name)))
        tower(torch.randn(1, 3, side, side)).square().sum().backward()
        reached = sum(p.numel() for p in tower.parameters() if p.grad is not None)
        assert outline.trained(PartTuning.model_validate(how)) == reached
    assert outline.trained(PartTuning(mode="frozen")) == 0
    assert all(p.is_meta for p in outline.whole.parameters())


@pytest.mark.parametrize("name", LLMS)
def test_a_language_models_parts_are_counted_once(name):
    facts = llm_entry(name)
    outline = llm_outline(facts)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**facts.config))
    assert outline.trained(PartTuning(mode="full")) == sum(p.numel() for p in model.parameters())
    ends = {"llama": "norm.", "phi": "final_layernorm.", "gpt_neox": "final_layer_norm.", "stablelm": "norm."}
    named = model.base_model.named_parameters()
    free = sum(p.numel() for n, p in named if n.startswith(("layers.1.", "layers.2.", ends[name])))
    assert outline.trained(PartTuning.model_validate({"from": 1})) == free
    assert outline.trained(PartTuning.model_validate({"last": 2})) == free


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj")])
@pytest.mark.parametrize("name", ["llama", "phi", "stablelm"])
def test_adapters_are_as_many_as_peft_makes(name, targets):
    facts = llm_entry(name)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**facts.config))
    peft = get_peft_model(model, LoraConfig(r=3, target_modules=list(targets) or "all-linear", task_type="CAUSAL_LM"))
    tuning = PartTuning.model_validate({"lora": {"r": 3, "targets": targets}})
    assert llm_outline(facts).trained(tuning) == peft.get_nb_trainable_parameters()[0]
