"""A language model's linear layers in 8 bits: a quarter of the memory, and products of integers where a CPU has them.

Weights have one scale a row, and so has each token's input, as measured when it comes (LLM.int8 and SmoothQuant call it
W8A8, per channel and per token). Integer products are exact, so a layer's result for a token depends on no other token.
Embeddings, head and norms stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from remora.model.blocks import blocks_of

LARGEST = 127


class Int8Linear(nn.Module):
    """A `nn.Linear` that only answers: W x is approximated by scale_w * scale_x * (integers of W)(integers of x)."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weights, scale = rounded(linear.weight.detach().float())
        self.register_buffer("weight", weights.t())  # a view: the product wants [in, out], in columns
        self.register_buffer("scale", scale.squeeze(1).to(linear.weight.dtype))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        values, scale = rounded(rows.reshape(-1, self.in_features))
        found = torch._int_mm(values, self.weight) * scale * self.scale
        if self.bias is not None:
            found += self.bias
        return found.view(*rows.shape[:-1], self.out_features)


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Integers [n, m] of rows [n, m], and each row's scale [n, 1]: integers * scale is about the rows."""
    scale = rows.abs().amax(1, keepdim=True).clamp_(min=1e-12).div_(LARGEST)
    return (rows / scale).round_().to(torch.int8), scale


def to_int8(llm: nn.Module) -> None:
    """Replace the linear layers of a language model's blocks, in place. It only answers from then on."""
    blocks, _ = blocks_of(llm)
    for block in blocks:
        for name, module in list(block.named_modules()):
            if type(module) is nn.Linear:
                block.set_submodule(name, Int8Linear(module))
