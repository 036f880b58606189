"""Linear layers in oneDNN's own layout, where torch's products are slow: fp32 on CPUs that are not Intel's.

torch gives fp32 products to MKL, which runs AVX2 code on such a CPU, and reads a weight as it lies in memory: slow with
few rows. oneDNN packs a weight once for its kernels. docs/serving-speed.md has what it saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn

from remora.model.patches.head import LossHead

ABOUT = Path("/proc/cpuinfo")
ROWS = 16
"""Rows that weights are packed for. Kernels take any number."""
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers in one module that read the same rows."""


class PackedLinear(nn.Module):
    """A `nn.Linear` that only answers: its weight is packed and no parameter any more."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._product = _Product(linear.weight, linear.bias)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return self._product(rows)


class PackedPart(nn.Module):
    """One of several linear layers that read the same rows: their product is one, made when the first of them is asked.
    Memory gives a large weight faster than three small ones, and a small product does not use a core's width."""

    def __init__(self, linear: nn.Linear, whole: _Parts, number: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._whole, self._number = whole, number

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return self._whole.part(rows, self._number)


class _Product:
    """rows [..., in] -> [..., out], by a weight that is packed."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
        self._bias = None if bias is None else bias.detach()

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")


class _Parts:
    """The product of layers that read the same rows, kept until each of them has its part."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        biases = tuple(each.bias for each in linears if each.bias is not None)
        weight, bias = torch.cat(tuple(each.weight for each in linears)), torch.cat(biases) if biases else None
        self._product, self._widths = _Product(weight, bias), [each.out_features for each in linears]
        self._kept: tuple[Tensor, dict[int, Tensor]] | None = None

    def part(self, rows: Tensor, number: int) -> Tensor:
        kept = self._kept
        found = kept[1].pop(number, None) if kept is not None and kept[0] is rows else None
        if kept is None or found is None:  # other rows, or these again
            parts = dict(enumerate(torch.split_with_sizes(self._product(rows), self._widths, -1)))
            found, self._kept = parts.pop(number), (rows, parts)
        elif not kept[1]:
            self._kept = None
        return found


@cache
def pays() -> bool:
    """Whether packed layers are faster on this machine: by its kind, not by a clock, so that equal machines give equal
    answers to the last bit."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    try:
        about = ABOUT.read_text()
    except OSError:
        return False
    return "GenuineIntel" not in about and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def pack(model: nn.Module) -> None:
    """Replace the fp32 linear layers and the head of a model that only answers by packed ones, if that pays here. A
    head that shares its weight with the embeddings is then in memory twice."""
    if not pays():
        return
    for module in list(model.modules()):
        for names in TOGETHER:
            found = [getattr(module, name, None) for name in names]
            layers = [each for each in found if _fits(each)]
            if len(layers) == len(names) and len({(each.in_features, each.bias is None) for each in layers}) == 1:
                whole = _Parts(layers)
                for number, (name, layer) in enumerate(zip(names, layers, strict=True)):
                    setattr(module, name, PackedPart(layer, whole, number))
    for name, module in list(model.named_modules()):
        if _fits(module):
            model.set_submodule(name, PackedLinear(module))


def _fits(module: object) -> TypeGuard[nn.Linear]:
    if not isinstance(module, nn.Linear) or type(module) not in (nn.Linear, LossHead):
        return False
    return module.weight.is_cpu and module.weight.dtype == torch.float32
