"""What the tests share: tiny data, a tiny tokenizer, a tiny model. Nothing here needs a network or a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from torch import nn

from remora import catalog
from remora.model.llm import train_tokenizer
from remora.model.vision import Tower
from remora.model.vlm import VisionLanguageModel
from tiny import write_records

# The same examples every time: a failure is the change's, not the day's.
settings.register_profile("remora", derandomize=True, deadline=None)
settings.load_profile("remora")

WORDS = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "USER: What is in the picture? ASSISTANT: a red circle",
    "USER: Is there a blue square? ASSISTANT: yes, there are two",
]


@pytest.fixture
def tiny_data(tmp_path):
    """`write_records` below tmp_path."""

    def make(path="train.json", count=3, images="images", pictures=True):
        return write_records(tmp_path, path, images, count, pictures)

    return make


@pytest.fixture
def catalog_data(tmp_path, tiny_data):
    """A data folder that holds three records of every dataset of the catalog."""
    for name, entry in catalog.entries("datasets").items():
        tiny_data(entry.path, images=entry.images, pictures=name != "demo-language")
    return tmp_path


@pytest.fixture(scope="session")
def tiny_tokenizer():
    return train_tokenizer(WORDS, 340)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A sqlite MLflow with tables: making them takes seconds, so once a session, then copied for each test."""
    from remora.tracking import Tracker

    folder = tmp_path_factory.mktemp("empty")
    Tracker(folder, f"sqlite:///{folder}/mlflow.db", experiment="not remora").prepare()
    return folder / "mlflow.db"


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


@pytest.fixture
def tiny_model():
    """Tower -> linear layer -> a Llama of two layers and 64 tokens; seeded, fp32, everything trains."""
    from transformers import LlamaConfig, LlamaForCausalLM

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
