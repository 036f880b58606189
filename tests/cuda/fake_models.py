"""Every class of the catalog's parts, once, and tiny models of them."""

from __future__ import annotations

import json

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from remora import catalog
from remora.catalog.compatibility import tokens_out
from remora.model.connectors import build_connector
from remora.model.vision import build_tower
from remora.model.vlm import VisionLanguageModel
from support.standins import small_connector, small_llm, small_vision


def classes(kind, facts):
    """One entry for each set of facts that decides which code runs."""
    found = {}
    for name, entry in catalog.entries(kind).items():
        found.setdefault(json.dumps(facts(entry), sort_keys=True), name)
    return list(found.values())


def of_llm(entry):
    groups = entry.config.get("num_key_value_heads", 0) < entry.config["num_attention_heads"]
    return [entry.config["model_type"], entry.config.get("tie_word_embeddings"), groups, entry.head_bias]


VISION = classes("vision", lambda e: [e.loader, e.config.get("model_type"), e.prefix, e.interpolated, bool(e.scales)])
CONNECTORS = classes("connectors", lambda e: e.model_dump(mode="json", exclude={"short", "source"}))
LLMS = classes("llm", of_llm)


def model_of(vision="siglip-so400m-384", connector="mlp2x_gelu", llm="demo-2m", head=16):
    """A model of tiny stand-ins; the language model has four heads of `head` channels."""
    torch.manual_seed(0)
    encoder, entry = small_vision(catalog.vision(vision)), small_connector(catalog.connector(connector))
    width = encoder.width if entry.kind == "identity" else 4 * head
    config = small_llm(catalog.llm(llm)).config
    config |= {"hidden_size": width} | ({"head_dim": width // 4} if "head_dim" in config else {})
    language = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="sdpa")
    made = build_connector(entry, encoder.width, width)
    tokens = tokens_out(entry, encoder.tokens)
    return VisionLanguageModel(language, build_tower(encoder, pretrained=False), made, encoder.input_size, tokens)
