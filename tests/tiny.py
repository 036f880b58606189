"""Small stand-ins that several rooms' tests build."""

from __future__ import annotations

from typing import Any


def shrunk(config: dict[str, Any], hidden: int, intermediate: int) -> dict[str, Any]:
    """A language model's config with two layers, two heads and 320 tokens."""
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": 2, "vocab_size": 320}
    return config | sizes | {"num_attention_heads": 2, "num_key_value_heads": 2}
