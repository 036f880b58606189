"""Linear layers in oneDNN's own layout, where torch's products are slow: fp32 on CPUs that are not Intel's.

torch gives fp32 products to MKL, which runs AVX2 code on such a CPU, and reads a weight as it lies in memory: slow with
few rows. oneDNN packs a weight once for its kernels. docs/serving.md has what it saves.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from remora.model.patches.head import LossHead

ABOUT = Path("/proc/cpuinfo")
ROWS = 16
"""Rows that weights are packed for. Kernels take any number."""


class PackedLinear(nn.Module):
    """A `nn.Linear` that only answers: its weight is packed and no parameter any more."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")


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
    for name, module in list(model.named_modules()):
        if type(module) not in (nn.Linear, LossHead):
            continue
        assert isinstance(module, nn.Linear)
        if module.weight.is_cpu and module.weight.dtype == torch.float32:
            model.set_submodule(name, PackedLinear(module))
