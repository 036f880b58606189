"""Tiny models in every layout that the export and import tests read: random weights, real classes of transformers."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    Dinov2Config,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    SiglipVisionConfig,
    StableLmConfig,
    ViTConfig,
)

from remora.catalog import Connector, Vision
from remora.model.connectors import mlp
from remora.model.llm import train_tokenizer
from remora.model.vision import Tower
from remora.model.vlm import VisionLanguageModel

WORDS = [
    "USER: What is in the picture? ASSISTANT: a red circle",
    "A chat between a curious user and an artificial intelligence assistant.",
    "USER: Is there a blue square? ASSISTANT: yes, there are two",
]
SHAPE = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2, "num_hidden_layers": 3}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
TEXT |= {"max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}

VISION = {
    "clip": CLIPVisionConfig(**SHAPE, image_size=16, patch_size=4),
    "siglip": SiglipVisionConfig(**SHAPE, image_size=16, patch_size=4),
    "vit": ViTConfig(**SHAPE, image_size=16, patch_size=4),
    "dinov2": Dinov2Config(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=4),
}
LLM = {
    "llama": LlamaConfig(**TEXT, num_key_value_heads=2),
    "qwen2": Qwen2Config(**TEXT, num_key_value_heads=2, tie_word_embeddings=True),
    "phi": PhiConfig(**TEXT),
    "phi3": Phi3Config(**TEXT, num_key_value_heads=2),
    "stablelm": StableLmConfig(
        **TEXT, num_key_value_heads=2, use_qkv_bias=True, partial_rotary_factor=0.5, layer_norm_eps=1e-3
    ),
    "gpt_neox": GPTNeoXConfig(**TEXT),
    "gemma": GemmaConfig(**TEXT, num_key_value_heads=1, head_dim=8),
}

ROWS = dict.fromkeys(LLM, 340) | {"qwen2": 352}
"""Rows of the vocabulary: as many as the tokenizer has tokens, or a few spare ones as Qwen2 and Phi-2 have them."""


def encoder(name: str, layer: int = -2, **changes: object) -> Vision:
    """The catalog entry of one of the towers."""
    config = VISION[name]
    prefix = 0 if name == "siglip" else 1
    facts = {
        "short": name,
        "loader": "transformers",
        "hub": f"tiny/{name}",
        "config": {k: v for k, v in config.to_diff_dict().items() if k not in ("transformers_version", "dtype")},
        "image_size": 16,
        "tokens": 16,
        "width": 24,
        "blocks": 3,
        "layer": layer,
        "prefix": prefix,
        "mean": [0.48, 0.46, 0.41] if prefix else [0.5, 0.5, 0.5],
        "std": [0.27, 0.26, 0.28] if prefix else [0.5, 0.5, 0.5],
        "fit": "crop" if prefix else "stretch",
        "parameters": 1,
        "licence": "none",
        "source": "a test",
    }
    facts["config"]["model_type"] = config.model_type
    return Vision(**{**facts, **changes})


MLP2 = Connector(short="mlp", kind="mlp", depth=2, source="a test")


class Cut(Tower):
    """A whole tower of transformers, read at a block: what the layouts mean, written down on its own."""

    def __init__(self, module: nn.Module, layer: int, drop: int) -> None:
        super().__init__()
        self.module, self.layer, self.drop = module, layer, drop

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.module(pixels, output_hidden_states=True).hidden_states
        return states[self.layer][:, self.drop :]


def enlarge(module: nn.Module, generator: torch.Generator) -> None:
    """Random weights that matter: biases and norms too, and large enough that the pictures decide the answer."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                p.copy_(noise * p[0].numel() ** -0.5 * 1.5)
            elif "bias" in name or "lambda" in name or "class" in name:
                p.copy_(noise * 0.3)
            else:
                p.copy_(1 + noise * 0.2)


def tiny_vlm(vision: str, llm: str, seed: int = 0) -> tuple[VisionLanguageModel, object]:
    """A composition with random weights, and its tokenizer (a byte-level BPE of 340 tokens)."""
    tokenizer = train_tokenizer(WORDS, 340)
    generator = torch.Generator().manual_seed(seed)
    config = LLM[llm].__class__.from_dict({**LLM[llm].to_dict(), "vocab_size": ROWS[llm]})
    text = AutoModelForCausalLM.from_config(config).eval()
    tower = AutoModel.from_config(copy.deepcopy(VISION[vision])).eval()
    connector = mlp(24, 32, 2)
    for module in (text, tower, connector):
        enlarge(module, generator)
    if llm == "phi":
        text.lm_head.bias.data.zero_()  # as every published LLaVA on Phi-2 has it; with a bias there is no stock layout
    cut = Cut(tower, -2, 0 if vision == "siglip" else 1)
    return VisionLanguageModel(text, cut, connector, 16, 16).eval().requires_grad_(False), tokenizer
