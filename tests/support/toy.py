"""A vision-language model of a few thousand weights, for tests that hold for any model."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from remora.model.vision import Tower
from remora.model.vlm import VisionLanguageModel


class TinyTower(Tower):
    """Pixels [B, 3, 4, 4] -> tokens [B, 2, 8] in three blocks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(24, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.norm = nn.LayerNorm(8)
        self.tail = [self.norm]

    def forward(self, pixels):
        tokens = self.stem(pixels.reshape(len(pixels), 2, 24))
        for block in self.blocks:
            tokens = torch.tanh(block(tokens))
        return self.norm(tokens)


def build_model() -> VisionLanguageModel:
    """Tower -> linear layer -> a Llama of two layers and 64 tokens; seeded, fp32, everything trains."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    return VisionLanguageModel(LlamaForCausalLM(config), TinyTower(), nn.Linear(8, 16), image_size=4, image_tokens=2)
