"""Parts without weights: a catalog entry's modules on torch's meta device, for planning.

Nothing is downloaded and no memory is spent, so the sizes of a 7 B model are known in a second on a laptop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from remora.catalog import LLM, Connector, Vision
from remora.model.connectors import build_connector
from remora.model.vision import build_tower
from remora.spec import PartTuning
from remora.spec.recipe import Lora

Piece = nn.Module | nn.Parameter


def count(*pieces: Piece) -> int:
    """Parameters of some modules and tensors, shared ones once."""
    found: dict[int, int] = {}
    for piece in pieces:
        for p in [piece] if isinstance(piece, nn.Parameter) else piece.parameters():
            found[id(p)] = p.numel()
    return sum(found.values())


@dataclass(frozen=True)
class Outline:
    """A part's modules, as planning needs to tell them apart."""

    whole: nn.Module
    read: Sequence[Piece]
    """What a loss reaches: without pooling heads and blocks behind the feature layer, which never get a gradient."""
    blocks: Sequence[nn.Module] = ()
    """In order, as `{last: n}` and `{from: n}` count them."""
    tail: Sequence[nn.Module] = ()
    """What trains whenever the last block does."""
    head: nn.Module | None = None
    """A language model's output head, which gets no adapter."""

    def trained(self, tuning: PartTuning) -> int:
        """Parameters that get a gradient under `tuning`; of adapters, theirs alone."""
        if tuning.mode == "full":
            return count(*self.read)
        if tuning.lora is not None:
            return self._adapters(tuning.lora)
        if tuning.blocks is None:
            return 0
        first = tuning.blocks if tuning.mode == "from" else len(self.blocks) - tuning.blocks
        reached = {id(m) for piece in self.read if isinstance(piece, nn.Module) for m in piece.modules()}
        return count(*(m for m in [*self.blocks[first:], *self.tail] if id(m) in reached))

    def _adapters(self, lora: Lora) -> int:
        """r x (in + out) for every linear layer that is meant (arXiv 2106.09685, section 4.1)."""
        return sum(
            lora.r * (m.in_features + m.out_features)
            for piece in self.read
            if isinstance(piece, nn.Module)
            for name, m in piece.named_modules()
            if isinstance(m, nn.Linear)
            and m is not self.head
            and (not lora.targets or name.rpartition(".")[2] in lora.targets)
        )


class EvaBlock(nn.Module):
    """Shapes of one block of EVA-02 (arXiv 2303.11331): attention and SwiGLU, each with a norm inside (sub-LN)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.attention_norm, self.out = nn.LayerNorm(width), nn.Linear(width, width)
        self.gate, self.up = nn.Linear(width, inner), nn.Linear(width, inner)
        self.inner_norm, self.down = nn.LayerNorm(inner), nn.Linear(inner, width)


class EvaVision(nn.Module):
    """Shapes of EVA-02's vision tower without its projection; it has no forward."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, patch = config["width"], config["patch_size"]
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, (config["image_size"] // patch) ** 2 + 1, width))
        inner = int(width * config["mlp_ratio"])
        self.blocks = nn.ModuleList(EvaBlock(width, inner) for _ in range(config["layers"]))
        self.norm = nn.LayerNorm(width)


def vision_outline(entry: Vision) -> Outline:
    """The encoder of a catalog entry. DINOv2's mask token (one vector) counts as read, though no picture meets it."""
    if entry.loader == "efficientnet-lite":
        tower = build_tower(entry, pretrained=False)
        return Outline(tower, [tower], list(tower.blocks), tower.tail)
    with torch.device("meta"):
        whole: nn.Module
        if entry.loader == "eva-clip":
            whole = EvaVision(entry.config)
        else:
            whole = AutoModel.from_config(AutoConfig.for_model(**entry.config))
    stack = next(m for m in whole.modules() if isinstance(m, nn.ModuleList) and len(m) == entry.blocks)
    pieces = list(_around(whole, stack))
    at = next(i for i, piece in enumerate(pieces) if piece is stack)
    tail = [m for m in pieces[at + 1 :] if isinstance(m, nn.LayerNorm)] if entry.layer == -1 else []
    return Outline(whole, [*pieces[:at], *stack[: entry.blocks + entry.layer + 1], *tail], list(stack), tail)


def _around(module: nn.Module, stack: nn.Module) -> Iterator[Piece]:
    """The module in pieces: the stack of blocks, and what is declared before and behind it."""
    if module is stack or not any(m is stack for m in module.modules()):
        yield module
        return
    yield from module.parameters(recurse=False)
    for child in module.children():
        yield from _around(child, stack)


def llm_outline(entry: LLM) -> Outline:
    """The language model of a catalog entry; its tail is the norm behind the last block."""
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(AutoConfig.for_model(**entry.config))
    backbone = whole.base_model
    tail = [m for m in backbone.children() if "Norm" in type(m).__name__]
    return Outline(whole, [whole], list(backbone.layers), tail, whole.get_output_embeddings())


def connector_outline(entry: Connector, width: int, hidden: int) -> Outline:
    """The connector of a catalog entry, from `width` channels to `hidden`."""
    with torch.device("meta"):
        whole = build_connector(entry, width, hidden)
    return Outline(whole, [whole])
