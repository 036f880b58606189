"""Dropout as a pure function of sample, layer and element.

torch's dropout draws from the process's generator, so its masks depend on how a batch is split over workers and on what
was drawn before: a resumed or differently split run would give other results. Here the mask of an element is a hash of
(sample key, layer, token, channel), with tokens counted within the sample. It costs a few integer operations per
element, on any device.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

# Constants of splitmix64 (Steele, Lea, Flood 2014), as signed 64-bit numbers; products wrap around.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of signed 64-bit integers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _MIX1
    x = (x ^ _shifted(x, 27)) * _MIX2
    return x ^ _shifted(x, 31)


def uniform(keys: Tensor, layer: int, tokens: int, channels: int, positions: Tensor | None = None) -> Tensor:
    """Numbers in [0, 1), [B, tokens, channels]: hashes of (sample key, layer, position, channel).

    keys are [B], one per row, with positions counted from the row's start; or keys and positions are [B, tokens].
    """
    device = keys.device
    if positions is None:
        keys, positions = keys[:, None], torch.arange(tokens, device=device)
    sample = _mixed(keys * _GOLDEN + layer + 1)  # [B, 1 or T]
    place = positions[..., None] * 65_537 + torch.arange(channels, device=device)  # [(B,) T, C]
    return _shifted(_mixed(sample[..., None] + place * _GOLDEN), 40).to(torch.float32) / (1 << 24)


class KeyedDropout(nn.Module):
    """Inverted dropout with rate `p` on [B, T, C]; set `keys` and `positions` (see `uniform`) before each forward
    pass."""

    def __init__(self, p: float, layer: int) -> None:
        super().__init__()
        self.p = p
        self.layer = layer
        self.keys: Tensor | None = None
        self.positions: Tensor | None = None

    def extra_repr(self) -> str:
        return f"p={self.p}, layer={self.layer}"

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        assert self.keys is not None, "the model sets the keys of a batch before it runs"
        keep = uniform(self.keys, self.layer, x.shape[1], x.shape[2], self.positions) >= self.p
        return x * keep / (1 - self.p)


def key_dropouts(module: nn.Module, first_layer: int = 0) -> list[KeyedDropout]:
    """Replace every dropout with a rate above 0 by a keyed one, numbered in the module's order.

    Dropout of attention weights is switched off, because fused attention draws it inside its kernel. No model of the
    catalog uses it.
    """
    for child in module.modules():
        if getattr(child, "attention_dropout", 0.0) and isinstance(child.attention_dropout, float):
            log.warning("attention dropout %g is switched off: it cannot be reproduced", child.attention_dropout)
            child.attention_dropout = 0.0  # type: ignore[assignment]
    found: list[KeyedDropout] = []
    for name, child in list(module.named_modules()):
        if isinstance(child, nn.Dropout) and child.p > 0:
            keyed = KeyedDropout(child.p, first_layer + len(found))
            keyed.train(child.training)
            module.set_submodule(name, keyed, strict=True)
            found.append(keyed)
    return found
