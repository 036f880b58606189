"""What a tuning trains, in every family of encoders and language models, and that gradients reach all of it."""

from __future__ import annotations

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from remora.model.tuning import freeze_and_train
from remora.model.vision import build_tower
from remora.model.vlm import VisionLanguageModel
from remora.spec import PartTuning, Tuning
from support.encoders import CONFIGS, entry

LLMS = {
    "llama": {"model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True},
    "phi": {"model_type": "phi", "num_key_value_heads": 2},
    "gpt_neox": {"model_type": "gpt_neox"},
    "stablelm": {"model_type": "stablelm", "num_key_value_heads": 2, "use_qkv_bias": True},
}


def llm_config(name) -> dict[str, object]:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    return LLMS[name] | sizes | {"vocab_size": 40, "max_position_embeddings": 32}


def trained(part, module, how) -> int:
    """Parameters that `how` trains in a model of which `module` is that part."""
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**llm_config("llama")))
    parts = {"vision": None, "connector": None, "llm": llm} | {part: module}
    model = VisionLanguageModel(parts["llm"], parts["vision"], parts["connector"], 1, 1)
    freeze_and_train(model, Tuning(vision="frozen", llm="frozen").model_copy(update={part: how}))
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_encoder_trains_what_the_features_gradient_reaches(kind, layer):
    facts = entry(kind, layer=layer)
    side = facts.image_size
    for how, free in ({"mode": "full"}, r""), ({"from": 1}, r"layers?\.[123]\."), ({"last": 3}, r"layers?\.[123]\."):
        tower = build_tower(facts, pretrained=False)
        tower(torch.randn(1, 3, side, side)).square().sum().backward()
        named = [(n, p) for n, p in tower.named_parameters() if re.search(free, n)]
        assert all(p.grad is not None for _, p in named)
        assert trained("vision", tower, PartTuning.model_validate(how)) == sum(p.numel() for _, p in named)
    assert trained("vision", tower, PartTuning(mode="frozen")) == 0


@pytest.mark.parametrize("name", LLMS)
def test_a_language_model_trains_its_last_blocks_and_the_norm_behind_them(name):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**llm_config(name)))
    everything = sum(p.numel() for p in model.parameters())
    assert trained("llm", model, PartTuning(mode="full")) == everything
    ends = {"llama": "norm.", "phi": "final_layernorm.", "gpt_neox": "final_layer_norm.", "stablelm": "norm."}
    named = model.base_model.named_parameters()
    free = sum(p.numel() for n, p in named if n.startswith(("layers.1.", "layers.2.", ends[name])))
    assert trained("llm", model, PartTuning.model_validate({"from": 1})) == free
    assert trained("llm", model, PartTuning.model_validate({"last": 2})) == free


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj")])
@pytest.mark.parametrize("name", ["llama", "phi", "stablelm"])
def test_adapters_are_as_many_as_peft_makes(name, targets):
    config = AutoConfig.for_model(**llm_config(name))
    theirs = LoraConfig(r=3, target_modules=list(targets) or "all-linear", task_type="CAUSAL_LM")
    peft = get_peft_model(AutoModelForCausalLM.from_config(config), theirs)
    tuning = PartTuning.model_validate({"lora": {"r": 3, "targets": targets}})
    with torch.device("meta"):
        ours = AutoModelForCausalLM.from_config(config)
    assert trained("llm", ours, tuning) == peft.get_nb_trainable_parameters()[0]
