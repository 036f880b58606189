"""Tiny checkpoints as other projects publish them: their names and configs written down here, not taken from ours."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from support.exchange_fake import LLM, ROWS, VISION

DROPPED_KEYS = ("transformers_version", "dtype", "architectures")


def plain(config):
    return {k: v for k, v in config.to_dict().items() if k not in DROPPED_KEYS} | {"model_type": config.model_type}


def parts_of(model):
    """(backbone, head, tower, connector) tensors by the names of their classes."""
    llm = model.llm.state_dict()
    prefix = model.llm.base_model_prefix + "."
    backbone = {k.removeprefix(prefix): v for k, v in llm.items() if k.startswith(prefix)}
    head = {k: v for k, v in llm.items() if not k.startswith(prefix)}
    if model.llm.config.tie_word_embeddings:
        head.pop("lm_head.weight")
    return backbone, head, model.vision.module.state_dict(), model.connector.state_dict()


def save(folder, config, tensors, tokenizer, form="safetensors"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder)
    tensors = {k: v.clone().contiguous() for k, v in tensors.items()}
    names = sorted(tensors)
    if form == "safetensors":
        save_file(tensors, folder / "model.safetensors")
    elif form == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        half = len(names) // 2
        files = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
        for file, some in files.items():
            save_file({k: tensors[k] for k in some}, folder / file)
        index = {"metadata": {}, "weight_map": {k: file for file, some in files.items() for k in some}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def llava_hf(folder, model, tokenizer, vision, llm, form="safetensors", modern=False, **changes):
    backbone, head, tower, connector = parts_of(model)
    text, m = ("model.language_model.", "model.") if modern else ("language_model.model.", "")
    tensors = {text + k: v for k, v in backbone.items()}
    tensors |= {("" if modern else "language_model.") + k: v for k, v in head.items() if not k.endswith("bias")}
    tensors |= {f"{m}vision_tower.{'' if modern else 'vision_model.'}{k}": v for k, v in tower.items()}
    for i, name in (("0", "linear_1"), ("2", "linear_2")):
        tensors |= {f"{m}multi_modal_projector.{name}.{k}": connector[f"{i}.{k}"] for k in ("weight", "bias")}
    config = {
        "model_type": "llava",
        "text_config": plain(LLM[llm]) | {"vocab_size": ROWS[llm]},
        "vision_config": plain(VISION[vision]),
        "image_token_index": 5,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "full" if vision == "siglip" else "default",
    }
    return save(folder, config | changes, tensors, tokenizer, form)


def factory(folder, model, tokenizer, vision, llm, form="safetensors", **changes):
    _, _, tower, connector = parts_of(model)
    tensors = {f"language_model.{k}": v for k, v in model.llm.state_dict().items()}
    tensors |= {f"vision_tower._vision_tower.vision_model.{k}": v for k, v in tower.items()}
    tensors |= {f"connector._connector.{k}": v for k, v in connector.items()}
    config = {
        "model_type": "tinyllava",
        "llm_model_name_or_path": f"tiny/{llm}",
        "vision_model_name_or_path": f"tiny/{vision}",
        "connector_type": "mlp2x_gelu",
        "text_config": plain(LLM[llm]) | {"vocab_size": ROWS[llm]},
        "vision_config": plain(VISION[vision]) | {"model_name_or_path": f"tiny/{vision}"},
        "image_token_index": -200,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "patch",
        "image_aspect_ratio": "square",
    }
    return save(folder, config | changes, tensors, tokenizer, form)


def original(folder, model, tokenizer, vision, llm, kind, form="safetensors", tower=True, **changes):
    """LLaVA's own layout and Bunny's (`kind` is the model_type)."""
    backbone, head, weights, connector = parts_of(model)
    tensors = {f"model.{k}": v for k, v in backbone.items()} | {k: v for k, v in head.items() if k.endswith("weight")}
    tensors |= {f"model.mm_projector.{k}": v for k, v in connector.items()}
    if tower:
        tensors |= {f"model.vision_tower.vision_tower.vision_model.{k}": v for k, v in weights.items()}
    config = plain(LLM[llm]) | {
        "model_type": kind,
        "vocab_size": ROWS[llm],
        "mm_vision_tower": f"tiny/{vision}",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 24,
        "image_aspect_ratio": "pad",
        "tokenizer_padding_side": "right",
        "auto_map": {"AutoModelForCausalLM": "modeling_bunny.Bunny"},
    }
    return save(folder, config | changes, tensors, tokenizer, form)
