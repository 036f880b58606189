"""The perceiver resampler: learnt latents that read the vision tokens, whatever their number."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PerceiverLayer(nn.Module):
    """Latents attend to the vision tokens and to themselves, then a feed-forward layer; both residual."""

    def __init__(self, hidden: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.norm_tokens = nn.LayerNorm(hidden)
        self.norm_latents = nn.LayerNorm(hidden)
        self.query = nn.Linear(hidden, inner, bias=False)
        self.key_value = nn.Linear(hidden, 2 * inner, bias=False)
        self.out = nn.Linear(inner, hidden, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.Linear(hidden, 4 * hidden, bias=False),
            nn.GELU(),
            nn.Linear(4 * hidden, hidden, bias=False),
        )

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        normed = self.norm_latents(latents)
        context = torch.cat([self.norm_tokens(tokens), normed], dim=1)  # [B, N + M, hidden]
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (self.query(normed), *self.key_value(context).chunk(2, dim=-1))
        )  # each [B, heads, length, head_width]
        latents = latents + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return cast(Tensor, latents + self.feed_forward(latents))


class Resampler(nn.Module):
    """`queries` learnt latents read the vision tokens; M = queries.

    Source: Flamingo's perceiver resampler (arXiv 2204.14198, appendix A.1.1). The vision tokens are first mapped to
    the language model's width, as TinyLLaVA Factory does (connector/resampler.py).
    Initialisation: latents normal(0, 1), as Factory's; layers by torch's default, where a rule for Factory's whole
    model says normal(0, 0.02).
    Names: after Factory's `connector._connector.`, `linear` -> `project`; in `layers.i`, `0.norm_media`, `0.to_q`,
    `0.to_kv`, `0.to_out`, `0.norm_latents` -> `norm_tokens`, `query`, `key_value`, `out`, `norm_latents`, and `1` ->
    `feed_forward`; `latents` and `norm` are the same.
    """

    def __init__(self, width: int, hidden: int, queries: int, depth: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, hidden)
        self.latents = nn.Parameter(torch.randn(queries, hidden))
        self.layers = nn.ModuleList(PerceiverLayer(hidden, heads, head_width) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.project(tokens)
        latents = self.latents.expand(len(tokens), -1, -1)
        for layer in self.layers:
            latents = layer(latents, tokens)
        return cast(Tensor, self.norm(latents))
