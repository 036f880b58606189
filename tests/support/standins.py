"""Tiny stand-ins of catalog entries: the same classes and the same grids of tokens, two or three narrow layers."""

from __future__ import annotations

from math import isqrt
from typing import Any

from remora.catalog import LLM, Connector, Vision

WIDTH = 16
PATCH = 2
VOCABULARY = 340


def small_vision(entry: Vision) -> Vision:
    """The encoder with its grid of tokens, layer and prefix; an EfficientNet is small enough as it is."""
    if entry.loader == "efficientnet-lite":
        return entry
    grid = isqrt(entry.tokens)
    size = grid * PATCH
    config: dict[str, Any] = dict(entry.config)
    given = {
        "hidden_size": WIDTH,
        "width": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "layers": 3,
        "num_attention_heads": 2,
        "heads": 2,
        "head_width": WIDTH // 2,
        "patch_size": PATCH,
        "image_size": size,
        "projection_dim": WIDTH,
    }
    config |= {k: v for k, v in given.items() if k in config}
    scales = tuple(s * size // entry.scales[0] for s in entry.scales)
    changed = {
        "config": config,
        "image_size": size,
        "blocks": 3,
        "scales": scales,
        "width": WIDTH * max(1, len(scales)),
    }
    return Vision.model_validate(entry.model_dump() | changed)


def small_connector(entry: Connector) -> Connector:
    changed = {"depth": min(entry.depth, 2), "heads": 2, "head_width": 4} if entry.queries else {}
    return Connector.model_validate(entry.model_dump() | changed)


def small_llm(entry: LLM) -> LLM:
    config: dict[str, Any] = dict(entry.config)
    heads = 4
    kv = max(1, heads * config.get("num_key_value_heads", heads) // config["num_attention_heads"])
    given = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": 4,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    config |= {k: v for k, v in given.items() if k in config or k.endswith("_token_id")}
    return LLM.model_validate(entry.model_dump() | {"config": config})
