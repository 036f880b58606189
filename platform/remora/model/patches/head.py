"""The language model's head fused with its loss: logits exist one chunk at a time and are overwritten by their
gradient.

Unfused, cross entropy over S supervised tokens needs four fp32 tensors [S, vocabulary] in the backward pass (logits,
log probabilities, gradients of the loss and of the logits). With a vocabulary of 50,000 they outweigh the model. The
loss is a sum, so the gradient of a chunk's logits is known at once: softmax minus one at the target. Nothing is
computed twice. docs/training-speed.md has the figures.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from remora.model.split import shape_of

CHUNK = 1 << 24
"""Logits per chunk: 64 MiB of fp32, small beside a model, with enough rows for an efficient matrix product."""


class _SummedCrossEntropy(torch.autograd.Function):
    """hidden [S, H], weight [V, H], bias [V] or None, targets [S], weights [S] or None -> the weighted sum of cross
    entropies in nats; a scalar.

    Gradients are computed in the forward pass; the backward pass scales them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor | None,
    ) -> Tensor:
        wanted = ctx.needs_input_grad
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        states, table = hidden.to(dtype), weight.to(dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        to_hidden = torch.empty_like(hidden) if wanted[0] else None
        to_weight = torch.zeros_like(weight) if wanted[1] else None
        to_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        rows = max(1, CHUNK // len(weight))
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(targets), rows):
                here = slice(start, start + rows)
                some, which = states[here], targets[here, None]
                scores = F.linear(some, table, None if bias is None else bias.to(dtype)).float()
                sums = scores.logsumexp(1, keepdim=True)
                losses = sums - scores.gather(1, which)
                loss += (losses if weights is None else losses * weights[here, None]).sum()
                if not any(wanted):
                    continue
                # In place of the scores: softmax, minus one at the target.
                slopes = scores.sub_(sums).exp_()
                slopes.scatter_add_(1, which, -torch.ones_like(sums))
                if weights is not None:
                    slopes *= weights[here, None]
                if to_bias is not None:
                    to_bias += slopes.sum(0)
                slopes = slopes.to(dtype)
                if to_hidden is not None:
                    to_hidden[here] = F.linear(slopes, table.t())
                if to_weight is not None and dtype == weight.dtype:
                    to_weight.addmm_(slopes.T, some)
                elif to_weight is not None:
                    to_weight += slopes.T @ some
        ctx.gradients = to_hidden, to_weight, to_bias
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, ()
        return *(None if g is None else g.mul_(slope) for g in gradients), None, None


class LossHead(nn.Linear):
    """Replaces an output head, with the same parameter names, and also computes the loss.

    The loss is computed in the head's forward, because ZeRO 3 gathers a weight only while its module is called.

    Args:
        head: the model's head; its parameters are kept.
    """

    def __init__(self, head: nn.Module) -> None:
        weight, bias = cast(nn.Parameter, head.weight), cast("nn.Parameter | None", head.bias)
        tokens, width = shape_of(weight)
        super().__init__(width, tokens, bias=bias is not None, device="meta")
        self.weight = weight
        self.register_parameter("bias", bias)
        self.train(head.training)

    def forward(self, input: Tensor, targets: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        """Logits [..., V] of states [..., H]. With targets [S]: the sum of cross entropies (nats) of states [S, H],
        each times its entry of weights [S] if given; a scalar in fp32.

        For S = 0 the loss is zero, but still part of the graph, so that every rank steps.
        """
        if targets is None:
            return super().forward(input)
        kind = input.device.type
        if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16:
            # The loss scale is applied in the backward pass; gradients computed before it would underflow (below 6e-8).
            scores = super().forward(input).float()
            if weights is None:
                return F.cross_entropy(scores, targets, reduction="sum")
            return (F.cross_entropy(scores, targets, reduction="none") * weights).sum()
        return _SummedCrossEntropy.apply(input, self.weight, self.bias, targets, weights)
