"""Small vision encoders of every family: catalog entries, and whole models of transformers to compare with."""

from __future__ import annotations

import torch
from transformers import CONFIG_MAPPING, AutoModel

from remora.catalog import Vision

SIZES = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 30, "patch_size": 8}
"""A side of 30 leaves a rest of 6 pixels that no patch covers, as SigLIP's 384 pixels do: 3 x 3 patches."""
MLP = {"intermediate_size": 24}

CONFIGS = {
    "clip_vision_model": SIZES | MLP,
    "siglip_vision_model": SIZES | MLP,
    "dinov2": SIZES | {"mlp_ratio": 2, "image_size": 40},  # another size than is read: positions are interpolated
    "dinov2_with_registers": SIZES | {"mlp_ratio": 2, "num_register_tokens": 3},
    "vit": SIZES | MLP | {"image_size": 24},
}
PREFIX = {"clip_vision_model": 1, "siglip_vision_model": 0, "dinov2": 1, "dinov2_with_registers": 4, "vit": 1}
SIDE = {"dinov2": 24, "dinov2_with_registers": 24, "vit": 24}
"""Pixels of a side that a family reads here, where it is not SIZES'."""


def vision(loader: str = "transformers", **changes) -> Vision:
    """An entry with made-up facts, for all that a test does not look at."""
    facts = {"short": "Tiny", "hub": "nobody/nothing", "image_size": 30, "tokens": 9, "width": 16, "blocks": 4}
    facts |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "parameters": 1, "licence": "none", "source": "none"}
    return Vision.model_validate(facts | {"loader": loader} | changes)


def entry(kind: str, **changes) -> Vision:
    """The entry of a small transformers encoder of a model_type."""
    facts = {"config": {"model_type": kind, **CONFIGS[kind]}, "prefix": PREFIX[kind], "image_size": SIDE.get(kind, 30)}
    return vision(**(facts | changes))


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight moved, so that none is 0 or 1 by chance and an exchanged or forgotten one shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def whole(kind: str) -> torch.nn.Module:
    """The complete transformers model of a model_type, with all blocks, norms and heads."""
    torch.manual_seed(0)
    return shaken(AutoModel.from_config(CONFIG_MAPPING[kind](**CONFIGS[kind])))


def pixels(side: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))
