"""Two-layer language models of every class of the catalog, and of classes whose batches need care."""

from __future__ import annotations

import json
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from remora import catalog
from remora.inference import FittedPicture, Prompt
from remora.token_ids import IMAGE
from support.standins import small_llm

VOCABULARY = 340
IMAGE_TOKENS = 4
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 4096}
SIZES |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.0], "long_factor": [2.0, 3.0]}
OTHERS: dict[str, tuple[bool, dict[str, Any]]] = {
    "smollm3": (True, {"no_rope_layers": [1, 0]}),  # a layer without positions
    "gpt2": (True, {}),  # learned absolute positions
    "opt": (True, {"ffn_dim": 24, "word_embed_proj_dim": 16}),  # learned, counted from 2
    "bloom": (False, {}),  # alibi, which counts the tokens of the mask
    "mistral": (False, {"sliding_window": 12}),
    "qwen3": (False, {"use_sliding_window": True, "sliding_window": 3, "layer_types": ["sliding_attention"] * 2}),
    "gemma3_text": (False, {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}),
    "lfm2": (False, {"layer_types": ["conv", "full_attention"]}),
    "llama": (False, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    "phi3": (False, {"rope_parameters": LONGROPE, "original_max_position_embeddings": 16}),
}
"""Classes that no entry has, whether prompts of unequal lengths can join, and the settings that matter to it."""


def _of_the_catalog() -> dict[str, dict[str, Any]]:
    """One name for every two-layer config that the catalog's language models shrink to."""
    found: dict[str, str] = {}
    for name, entry in catalog.entries("llm").items():
        found.setdefault(json.dumps(small_llm(entry).config, sort_keys=True), name)
    return {name: json.loads(config) for config, name in found.items()}


CATALOG = _of_the_catalog()
CONFIGS = CATALOG | {f"+{name}": {"model_type": name} | SIZES | own for name, (_, own) in OTHERS.items()}
WINDOWED = ("phi-3-mini-4k",)
"""Entries whose attention has a window, of 2,047 tokens: prompts of one length go together. No test here is as long."""
JOIN = {name: OTHERS[name[1:]][0] if name.startswith("+") else name not in WINDOWED for name in CONFIGS}


PICTURES = [FittedPicture(Image.new("L", (1, 1), shade)) for shade in range(40)]


def llm_of(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    how = "eager" if name == "+bloom" else "sdpa"
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**CONFIGS[name]), attn_implementation=how)
    with torch.no_grad():
        for parameter in llm.parameters():  # as made, weights of .02 leave the logits nearly blind to what was read
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return llm.eval()


def prompts(tails: list[int], each: int = 3, images: int = 1, head: int = 5) -> list[Prompt]:
    """A prompt with a tail of each of these lengths; `each` of them follow each other about the same pictures."""
    generator = torch.Generator().manual_seed(len(tails))

    def words(count: int) -> list[int]:
        return torch.randint(2, VOCABULARY, (count,), generator=generator).tolist()

    start, made = words(head), []
    for i, tail in enumerate(tails):
        shown = tuple(PICTURES[i // each : i // each + images])
        made.append(Prompt((*start, *[IMAGE] * IMAGE_TOKENS * images, *words(tail)), shown))
    return made


def embeddings() -> dict[bytes, torch.Tensor]:
    """Of each of `PICTURES`."""
    generator = torch.Generator().manual_seed(7)
    return {p.digest: torch.randn(IMAGE_TOKENS, 16, generator=generator) / 4 for p in PICTURES}
