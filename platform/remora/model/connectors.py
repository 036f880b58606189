"""Connectors: vision tokens [B, N, width] in, language-model embeddings [B, M, hidden] out."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from remora.catalog import Connector


def mlp(width: int, hidden: int, depth: int) -> nn.Sequential:
    """`depth` linear layers with GELU between them; M = N. Source: LLaVA-1.5's mlp2x_gelu (depth 2)."""
    layers: list[nn.Module] = [nn.Linear(width, hidden)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(hidden, hidden)]
    return nn.Sequential(*layers)


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
    the language model's width, as TinyLLaVA Factory does.
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


def build_connector(entry: Connector, width: int, hidden: int) -> nn.Module:
    """The connector of a catalog entry, from `width` channels to `hidden`, with torch's default initialisation."""
    if entry.kind == "mlp":
        return mlp(width, hidden, entry.depth)
    assert entry.queries and entry.heads and entry.head_width  # the catalog entry holds this
    return Resampler(width, hidden, entry.queries, entry.depth, entry.heads, entry.head_width)


def tokens_out(entry: Connector, tokens_in: int) -> int:
    """How many embeddings the connector makes of a picture's tokens."""
    return tokens_in if entry.queries is None else entry.queries
