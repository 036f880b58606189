"""Outlines: what is counted without weights is what a loss reaches and what training sets free."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from remora import catalog
from remora.catalog import LLM, Vision
from remora.model.outline import count, llm_outline, vision_outline
from remora.spec import PartTuning

SMALL = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
TOWERS = {
    "clip": ({"model_type": "clip_vision_model", "intermediate_size": 24, **SMALL}, 1),
    "siglip": ({"model_type": "siglip_vision_model", "intermediate_size": 24, **SMALL}, 0),
    "dinov2": ({"model_type": "dinov2", "use_mask_token": False, **SMALL}, 1),
    "vit": ({"model_type": "vit", "intermediate_size": 24, **SMALL}, 1),
}
LLMS = {
    "llama": {"model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True},
    "phi": {"model_type": "phi", "num_key_value_heads": 2},
    "gpt_neox": {"model_type": "gpt_neox"},
    "stablelm": {"model_type": "stablelm", "num_key_value_heads": 2, "use_qkv_bias": True},
}


def tower_entry(name, layer) -> Vision:
    config, prefix = TOWERS[name]
    like = catalog.vision("clip-l-336").model_dump()
    small = {
        "config": config,
        "image_size": 28,
        "tokens": 4,
        "width": 16,
        "blocks": 4,
        "layer": layer,
        "prefix": prefix,
    }
    return Vision.model_validate(like | small)


def llm_entry(name) -> LLM:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LLMS[name] | sizes | {"vocab_size": 40, "max_position_embeddings": 32}
    return LLM.model_validate(catalog.llm("phi-2").model_dump() | {"config": config})


def reached(model, entry, tuned=lambda name: True) -> int:
    """Parameters that the features' gradient reaches when only those that `tuned` names are free: a real backward."""
    for name, p in model.named_parameters():
        p.requires_grad_(tuned(name))
    out = model(torch.randn(1, 3, 28, 28), output_hidden_states=True)
    features = out.last_hidden_state if entry.layer == -1 else out.hidden_states[entry.layer]
    features[:, entry.prefix :].square().sum().backward()
    return sum(p.numel() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("layer", [-1, -2, -3])
@pytest.mark.parametrize("name", TOWERS)
def test_an_encoder_trains_what_the_features_gradient_reaches(name, layer):
    entry = tower_entry(name, layer)
    outline = vision_outline(entry)
    model = AutoModel.from_config(AutoConfig.for_model(**entry.config))
    assert count(outline.whole) == count(model)
    assert outline.trained(PartTuning(mode="full")) == reached(model, entry)
    model.zero_grad()
    last_blocks = ("layers.2.", "layers.3.", "layer.2.", "layer.3.")
    behind = ("post_layernorm", "layernorm") if layer == -1 else ()
    tail = [n for n, _ in model.named_parameters() if n.startswith(behind)] if behind else []
    free = reached(model, entry, lambda n: any(b in n for b in last_blocks) or n in tail) if layer > -3 else 0
    assert layer == -3 or outline.trained(PartTuning.model_validate({"last": 2})) == free
    assert outline.trained(PartTuning.model_validate({"from": 2})) == outline.trained(
        PartTuning.model_validate({"last": 2})
    )
    assert outline.trained(PartTuning(mode="frozen")) == 0


@pytest.mark.parametrize("name", LLMS)
def test_a_language_models_parts_are_counted_once(name):
    entry = llm_entry(name)
    outline = llm_outline(entry)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**entry.config))
    assert outline.trained(PartTuning(mode="full")) == sum(p.numel() for p in model.parameters())
    ends = {"llama": "norm.", "phi": "final_layernorm.", "gpt_neox": "final_layer_norm.", "stablelm": "norm."}
    named = model.base_model.named_parameters()
    free = sum(p.numel() for n, p in named if n.startswith(("layers.1.", "layers.2.", ends[name])))
    assert outline.trained(PartTuning.model_validate({"from": 1})) == free
    assert outline.trained(PartTuning.model_validate({"last": 2})) == free


@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj")])
@pytest.mark.parametrize("name", ["llama", "phi", "stablelm"])
def test_adapters_are_as_many_as_peft_makes(name, targets):
    entry = llm_entry(name)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**entry.config))
    peft = get_peft_model(model, LoraConfig(r=3, target_modules=list(targets) or "all-linear", task_type="CAUSAL_LM"))
    tuning = PartTuning.model_validate({"lora": {"r": 3, "targets": targets}})
    assert llm_outline(entry).trained(tuning) == peft.get_nb_trainable_parameters()[0]
