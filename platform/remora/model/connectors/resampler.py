"""Resamplers: learned latents or queries that attend to any number of vision tokens.

Two different ones have this name. `Resampler` is Flamingo's, as in TinyLLaVA Factory; `CrossResampler` is that of the
TinyLLaVA paper, whose queries do not attend to each other.
"""

from __future__ import annotations

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
        return latents + self.feed_forward(latents)


class Resampler(nn.Module):
    """`queries` learned latents attend to the vision tokens; M = queries.

    Source: Flamingo's perceiver resampler (arXiv 2204.14198, appendix A.1.1). The vision tokens are first mapped to
    the language model's width, as TinyLLaVA Factory does (connector/resampler.py).
    Initialisation: latents normal(0, 1), as Factory's; layers by torch's default, although a rule for Factory's
    whole model says normal(0, 0.02).
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
        return self.norm(latents)


class CrossLayer(nn.Module):
    """Queries [B, M, inner] attend only to the vision tokens [B, N, width], then a feed-forward layer; both
    residual."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.norm_tokens = nn.LayerNorm(width)
        self.norm_queries = nn.LayerNorm(inner)
        self.query = nn.Linear(inner, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, inner, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(inner),
            nn.Linear(inner, 4 * inner, bias=False),
            nn.GELU(),
            nn.Linear(4 * inner, inner, bias=False),
        )

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        normed = self.norm_tokens(tokens)
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (self.query(self.norm_queries(queries)), self.key(normed), self.value(normed))
        )  # each [B, heads, length, head_width]
        queries = queries + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return queries + self.feed_forward(queries)


class CrossResampler(nn.Module):
    """`queries` learned vectors of heads x head_width channels attend to the vision tokens only; M = queries.

    Source: the resampler of TinyLLaVA's Figure 6 (arXiv 2402.14289), as in its code (TinyLLaVABench,
    tinyllava/model/multimodal_projector/builder.py): tokens keep the encoder's width, and a final linear layer without
    bias maps to the language model's. 24.1 M parameters between CLIP-L and TinyLlama.
    Initialisation: queries normal(0, 1), layers by torch's default, as there.
    Names: after TinyLLaVABench's `mm_projector.`, `resampler_blocks` -> `layers`, and in these `norm_image`,
    `norm_hidden`, `to_q`, `to_k`, `to_v`, `to_out` -> `norm_tokens`, `norm_queries`, `query`, `key`, `value`, `out`;
    `post_norm` -> `norm`, `final_proj` -> `project`.
    """

    def __init__(self, width: int, hidden: int, queries: int, depth: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.queries = nn.Parameter(torch.randn(queries, inner))
        self.layers = nn.ModuleList(CrossLayer(width, heads, head_width) for _ in range(depth))
        self.norm = nn.LayerNorm(inner)
        self.project = nn.Linear(inner, hidden, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        queries = self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens)
        return self.project(self.norm(queries))
