"""Parts without weights: a catalog entry's modules on torch's meta device, for planning.

Nothing is downloaded and no memory is spent, so the sizes of a 7 B model are known in a second on a laptop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from remora.catalog import LLM, Connector, Vision
from remora.model.connectors import build_connector
from remora.model.vision import build_tower
from remora.spec import PartTuning
from remora.spec.recipe import Lora


def count(*modules: nn.Module) -> int:
    """Parameters of some modules, shared ones once."""
    return sum({id(p): p.numel() for m in modules for p in m.parameters()}.values())


@dataclass(frozen=True)
class Outline:
    """A part's modules, as planning needs to tell them apart."""

    whole: nn.Module
    blocks: Sequence[nn.Module] = ()
    """In order, as `{last: n}` and `{from: n}` count them."""
    tail: Sequence[nn.Module] = ()
    """What trains whenever the last block does."""
    embeddings: Sequence[nn.Module] = ()
    """A language model's token table and output head, which get no adapters."""

    def trained(self, tuning: PartTuning) -> int:
        """Parameters that train under `tuning`; of adapters, theirs alone."""
        if tuning.mode == "full":
            return count(self.whole)
        if tuning.lora is not None:
            return self._adapters(tuning.lora)
        if tuning.blocks is None:
            return 0
        first = tuning.blocks if tuning.mode == "from" else len(self.blocks) - tuning.blocks
        return count(*self.blocks[first:], *self.tail)

    def _adapters(self, lora: Lora) -> int:
        """r x (in + out) for every linear layer that is meant (arXiv 2106.09685, section 4.1)."""
        return sum(
            lora.r * (m.in_features + m.out_features)
            for name, m in self.whole.named_modules()
            if isinstance(m, nn.Linear)
            and not any(m is e for e in self.embeddings)
            and (not lora.targets or name.rpartition(".")[2] in lora.targets)
        )


def vision_outline(entry: Vision) -> Outline:
    """The encoder of a catalog entry, without what is never read: fewer parameters than the published file holds."""
    with torch.device("meta"):
        tower = build_tower(entry, pretrained=False)
    return Outline(tower, list(tower.blocks), tower.tail)


def llm_outline(entry: LLM) -> Outline:
    """The language model of a catalog entry; its tail is the norm behind the last block."""
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(AutoConfig.for_model(**entry.config))
    backbone = whole.base_model
    tail = [m for m in backbone.children() if "Norm" in type(m).__name__]
    return Outline(whole, list(backbone.layers), tail, (whole.get_input_embeddings(), whole.get_output_embeddings()))


def connector_outline(entry: Connector, width: int, hidden: int) -> Outline:
    """The connector of a catalog entry, from `width` channels to `hidden`."""
    with torch.device("meta"):
        return Outline(build_connector(entry, width, hidden))
