"""Linear layers on a CPU whose products torch does at half of its speed.

torch gives fp32 products to MKL, which runs AVX2 on a CPU that is not Intel's, also where that has AVX-512; oneDNN,
which torch carries too, runs AVX-512 there. On such a CPU linear layers, forward and backward, are oneDNN's: about
twice as fast (docs/training-speed.md), unless `cluster.fast_products` says no. Everywhere else, and for a few rows,
they stay torch's.

oneDNN makes a kernel for each number of rows that it meets, in about 2 ms and 0.6 MiB. So rows are filled up with zeros
to one of sixteen numbers an octave (`rounded`): whoever knows how many will pass all layers does that once for all.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LEAST = 32
"""Rows from which on oneDNN is worth its call."""


@cache
def pays() -> bool:
    """Whether oneDNN's products are the faster ones on this machine: fp32 on an AMD CPU with AVX-512."""
    if platform.system() != "Linux" or not torch.backends.mkldnn.is_available():
        return False
    amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    return amd and torch.backends.mkl.is_available() and "AVX512" in torch.backends.cpu.get_cpu_capability()


def quicken(module: nn.Module) -> None:
    """Let the module's linear layers use oneDNN where that pays. Weights, names and results (to rounding) stay."""
    if not torch.cuda.is_available():
        for layer in module.modules():
            if type(layer) is nn.Linear:  # and not what is derived from it: a quantised one has products of its own
                layer.__class__ = Linear


def rounded(rows: int) -> int:
    """The least number of rows that kernels are kept for and that holds these; beyond 512 a sixteenth more at most.

    Few rows stay as they are: no kernel is kept for them.
    """
    if rows < LEAST:
        return rows
    unit = max(LEAST, 1 << rows.bit_length() - 5)
    return -(-rows // unit) * unit


class Linear(nn.Linear):
    """torch's layer with oneDNN's products."""

    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.weight, self.bias)


def is_quick(layer: nn.Module) -> bool:
    """Whether this layer's products are oneDNN's, on this machine."""
    return isinstance(layer, Linear) and pays()


def product(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input [..., K], weight [N, K] and bias [N] or None -> [..., N], as torch.nn.functional.linear."""
    plain = input.dtype == weight.dtype == torch.float32 and input.device.type == "cpu"
    if not plain or input.dim() < 2 or torch.is_autocast_enabled("cpu"):
        return F.linear(input, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (input, weight, bias)):
        return cast(Tensor, _Product.apply(input, weight, bias))
    return times(input, weight, bias)


class _Product(torch.autograd.Function):
    """`product` on the graph. What is kept for the backward pass is what torch's own keeps: the input where the weight
    trains, the weight where the input has a gradient.

    It is this node on every machine and for any number of rows, whoever multiplies. A graph of other nodes makes its
    gradients in another order, and ZeRO sums what the ranks make first with what they make first.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        to_input, to_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(input if to_weight else None, weight if to_input else None)
        return times(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        to_input = times(slopes, weight.t()) if ctx.needs_input_grad[0] else None
        rows = slopes.flatten(0, -2)
        to_weight = outer(rows, input.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        to_bias = rows.sum(0) if ctx.needs_input_grad[2] else None
        return to_input, to_weight, to_bias


def times(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`product` of fp32 tensors on the CPU, without a graph."""
    rows = input.flatten(0, -2)
    if not _worth(rows):
        return F.linear(input, weight, bias)
    out = torch.ops.mkldnn._linear_pointwise(_filled(rows), weight, bias, "none", [], "")[: len(rows)]
    return cast(Tensor, out.view(*input.shape[:-1], -1))


def outer(slopes: Tensor, rows: Tensor) -> Tensor:
    """slopes [R, N] and rows [R, K], fp32 on the CPU -> slopes' rows [N, K], the gradient of a weight."""
    if not _worth(rows):
        return slopes.t() @ rows
    # oneDNN wants its first matrix in the order of its rows, so the smaller one is copied into it.
    first, second = (slopes, rows) if slopes.shape[1] <= rows.shape[1] else (rows, slopes)
    out = torch.ops.mkldnn._linear_pointwise(_filled(first).t(), _filled(second).t(), None, "none", [], "")
    return cast(Tensor, out if first is slopes else out.t())


def _worth(rows: Tensor) -> bool:
    return len(rows) >= LEAST and pays()


def _filled(rows: Tensor) -> Tensor:
    """rows [R, K] with zeros below them, as many as `rounded` says."""
    missing = rounded(len(rows)) - len(rows)
    return F.pad(rows, (0, 0, 0, missing)) if missing else rows
