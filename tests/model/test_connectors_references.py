"""Every kind of connector against the same arithmetic written out in float64, by index loops where it is a picture."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from remora import catalog
from remora.model.connectors import build_connector
from remora.model.connectors.mobile import LDP, LDPv2, SqueezeExcite, window_means
from remora.model.connectors.projection import PixelShuffle, mlp
from remora.model.connectors.qformer import QFormer
from remora.model.connectors.resampler import CrossResampler, Resampler

EXACT = {"rtol": 1e-10, "atol": 1e-12}
"""float64 on both sides; only the order of sums differs."""


def seeded(module: nn.Module) -> nn.Module:
    """In float64, with every parameter random, so that no gain is 1 and no bias 0."""
    torch.manual_seed(0)
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.5)
    return module


def tokens_of(count: int, width: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, count, width, dtype=torch.float64)


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def apply_linear(layer, vector):
    biases = [0.0] * len(layer.weight) if layer.bias is None else layer.bias.tolist()
    rows = layer.weight.flatten(1).tolist()
    return [sum(w * x for w, x in zip(row, vector, strict=True)) + b for row, b in zip(rows, biases, strict=True)]


def apply_norm(layer, vector):
    mean = sum(vector) / len(vector)
    variance = sum((x - mean) ** 2 for x in vector) / len(vector)
    scaled = [(x - mean) / math.sqrt(variance + 1e-5) for x in vector]
    return [s * g + b for s, g, b in zip(scaled, layer.weight.tolist(), layer.bias.tolist(), strict=True)]


def apply_mlp(layers, vector):
    first, _, second = layers
    return apply_linear(second, [gelu(x) for x in apply_linear(first, vector)])


def depthwise(convolution, grid, stride):
    """A 3x3 convolution with zero padding over grid[row][column][channel], each channel for itself."""
    side, channels = len(grid), len(grid[0][0])
    kernel = convolution.weight.tolist()
    out = []
    for row in range(0, side, stride):
        out.append([])
        for column in range(0, side, stride):
            sums = [0.0] * channels if convolution.bias is None else convolution.bias.tolist()
            for c in range(channels):
                for i in range(3):
                    for j in range(3):
                        y, x = row + i - 1, column + j - 1
                        if 0 <= y < side and 0 <= x < side:
                            sums[c] += kernel[c][0][i][j] * grid[y][x][c]
            out[-1].append(sums)
    return out


def squares(tokens):
    """tokens[N][C] -> grid[row][column][C]"""
    side = math.isqrt(len(tokens))
    return [tokens[row * side : (row + 1) * side] for row in range(side)]


def compare(connector, tokens, reference):
    out = connector(tokens)
    expected = torch.tensor([reference(picture) for picture in tokens.tolist()], dtype=torch.float64)
    assert out.shape == expected.shape
    torch.testing.assert_close(out, expected, **EXACT)


def test_the_mlp_is_linear_gelu_linear():
    connector = seeded(mlp(3, 2, depth=2))
    compare(connector, tokens_of(4, 3), lambda picture: [apply_mlp(connector, token) for token in picture])


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_pixel_shuffle_joins_squares_row_by_row(factor):
    connector = seeded(PixelShuffle(2, 3, factor))

    def reference(picture):
        grid = squares(picture)
        return [
            apply_linear(
                connector.project,
                [c for i in range(factor) for j in range(factor) for c in grid[row + i][column + j]],
            )
            for row in range(0, 6, factor)
            for column in range(0, 6, factor)
        ]

    compare(connector, tokens_of(36, 2), reference)


def test_pixel_shuffle_lays_channels_out_as_transformers_does():
    from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

    connector, tokens = seeded(PixelShuffle(2, 3, 4)), tokens_of(64, 2)
    theirs = Idefics3Connector.pixel_shuffle(None, tokens, 4)
    torch.testing.assert_close(connector(tokens), connector.project(theirs), **EXACT)


@pytest.mark.parametrize("side", [4, 6])
def test_ldp_is_its_two_blocks_written_out(side):
    connector = seeded(LDP(2, 3))

    def block(layer, grid, stride):
        grid = depthwise(layer.depthwise, grid, stride)
        grid = [[apply_norm(layer.norm_depthwise, v) for v in line] for line in grid]
        grid = [[[x * min(max(x + 3, 0), 6) / 6 for x in v] for v in line] for line in grid]
        vectors = [v for line in grid for v in line]
        mean = [sum(v[c] for v in vectors) / len(vectors) for c in range(3)]
        inner = [max(x, 0) for x in apply_linear(layer.squeeze_excite.fc1, mean)]
        scale = [min(max(x + 3, 0), 6) / 6 for x in apply_linear(layer.squeeze_excite.fc2, inner)]
        grid = [[[x * s for x, s in zip(v, scale, strict=True)] for v in line] for line in grid]
        return [[apply_norm(layer.norm_pointwise, apply_linear(layer.pointwise, v)) for v in line] for line in grid]

    def reference(picture):
        grid = squares([apply_mlp(connector.mlp, token) for token in picture])
        first = block(connector.blocks[0], grid, 1)
        first = [
            [[a + b for a, b in zip(u, v, strict=True)] for u, v in zip(s, t, strict=True)]
            for s, t in zip(grid, first, strict=True)
        ]
        return [v for line in block(connector.blocks[1], first, 2) for v in line]

    compare(connector, tokens_of(side**2, 2), reference)


@pytest.mark.parametrize(
    ("hidden", "inner"), [(4, 8), (16, 8), (52, 16), (76, 24), (240, 64), (2048, 512), (2560, 640)]
)
def test_squeeze_and_excite_is_as_wide_as_torchvisions(hidden, inner):
    with torch.device("meta"):
        assert SqueezeExcite(hidden).fc1.weight.shape == (inner, hidden, 1, 1)


@pytest.mark.parametrize("side", [3, 4, 5, 6])
def test_ldpv2_averages_windows_and_adds_a_convolution(side):
    connector = seeded(LDPv2(2, 3, grid=3))

    def reference(picture):
        grid = squares([apply_mlp(connector.mlp, token) for token in picture])
        pooled = []
        for row in range(3):
            pooled.append([])
            for column in range(3):
                window = [
                    grid[y][x]
                    for y in range(math.floor(row * side / 3), math.ceil((row + 1) * side / 3))
                    for x in range(math.floor(column * side / 3), math.ceil((column + 1) * side / 3))
                ]
                pooled[-1].append([sum(v[c] for v in window) / len(window) for c in range(3)])
        place = depthwise(connector.place, pooled, 1)
        return [
            [a + b for a, b in zip(pooled[row][column], place[row][column], strict=True)]
            for row in range(3)
            for column in range(3)
        ]

    compare(connector, tokens_of(side**2, 2), reference)


@pytest.mark.parametrize(("side", "grid"), [(24, 12), (27, 12), (16, 12), (37, 12), (12, 12), (5, 1)])
def test_window_means_are_torchs_adaptive_average(side, grid):
    picture = torch.randn(2, 3, side, side, dtype=torch.float64)
    torch.testing.assert_close(window_means(picture, grid), F.adaptive_avg_pool2d(picture, grid), **EXACT)


def test_window_means_of_a_constant_are_the_constant_in_bfloat16_too():
    assert (window_means(torch.full((1, 1, 27, 27), 3.0, dtype=torch.bfloat16), 12) == 3.0).all()


def attention(query, key, value, heads):
    """Softmax attention of [N, heads * w], a head at a time."""
    out = []
    for q, k, v in zip(*(x.chunk(heads, dim=-1) for x in (query, key, value)), strict=True):
        out.append(torch.softmax(q @ k.T / math.sqrt(q.shape[-1]), dim=-1) @ v)
    return torch.cat(out, dim=-1)


def test_the_qformer_is_post_norm_bert_with_cross_attention_every_second_layer():
    connector = seeded(QFormer(5, 3, queries=4, depth=3, heads=2, head_width=3))
    tokens = tokens_of(7, 5)
    weights = connector.state_dict()

    def run(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, (6,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    def attend(name, x, context):
        q, k, v = (run(f"{name}.attention.{p}", y) for p, y in (("query", x), ("key", context), ("value", context)))
        return norm(f"{name}.output.LayerNorm", x + run(f"{name}.output.dense", attention(q, k, v, heads=2)))

    for picture, out in zip(tokens, connector(tokens), strict=True):
        x = norm("bert.layernorm", weights["queries"][0])
        for i in range(3):
            layer = f"bert.encoder.layer.{i}"
            x = attend(f"{layer}.attention", x, x)
            if i in (0, 2):
                x = attend(f"{layer}.crossattention", x, picture)
            inner = F.gelu(run(f"{layer}.intermediate_query.dense", x))
            x = norm(f"{layer}.output_query.LayerNorm", x + run(f"{layer}.output_query.dense", inner))
        torch.testing.assert_close(out, run("project", x), **EXACT)


def test_the_resampler_is_flamingos_with_a_linear_layer_before():
    connector = seeded(Resampler(3, 8, queries=3, depth=2, heads=2, head_width=5))
    tokens = tokens_of(4, 3)
    for picture, out in zip(tokens, connector(tokens), strict=True):
        seen, latents = connector.project(picture), connector.latents
        for layer in connector.layers:
            normed = layer.norm_latents(latents)
            keys, values = layer.key_value(torch.cat([layer.norm_tokens(seen), normed])).split(10, dim=-1)
            latents = latents + layer.out(attention(layer.query(normed), keys, values, heads=2))
            latents = latents + layer.feed_forward(latents)
        torch.testing.assert_close(out, connector.norm(latents), **EXACT)


def test_the_papers_resampler_by_loops_over_queries_heads_and_tokens():
    """Number by number: each query attends to the tokens, one head at a time, and to no other query."""
    connector = seeded(CrossResampler(3, 8, queries=3, depth=2, heads=2, head_width=5))
    tokens = tokens_of(4, 3)
    for picture, out in zip(tokens, connector(tokens), strict=True):
        for number, query in enumerate(connector.queries):
            for layer in connector.layers:
                seen = [layer.norm_tokens(token) for token in picture]
                asked, read = layer.query(layer.norm_queries(query)), []
                for head in (slice(0, 5), slice(5, 10)):
                    scores = torch.stack([asked[head] @ layer.key(token)[head] / 5**0.5 for token in seen])
                    shares = scores.exp() / scores.exp().sum()
                    read.append(
                        sum(share * layer.value(token)[head] for share, token in zip(shares, seen, strict=True))
                    )
                query = query + layer.out(torch.cat(read))
                normed, first, _, second = layer.feed_forward
                query = query + second(F.gelu(first(normed(query))))
            torch.testing.assert_close(out[number], connector.project(connector.norm(query)), **EXACT)


def test_the_two_resamplers_have_the_published_numbers_of_parameters():
    """Between CLIP-L (1,024 channels) and TinyLlama (2,048): the paper's 24.1 M, Factory's rewrite 115.6 M."""
    for name, count in (("resampler-768", 24_101_376), ("resampler-128", 115_648_512)):
        with torch.device("meta"):
            connector = build_connector(catalog.connector(name), 1024, 2048)
        assert sum(p.numel() for p in connector.parameters()) == count, name


@pytest.mark.parametrize("kind", [Resampler, CrossResampler, QFormer])
def test_readers_see_a_set(kind):
    connector = seeded(kind(3, 8, queries=3, depth=2, heads=2, head_width=4))
    tokens = tokens_of(9, 3)
    torch.testing.assert_close(connector(tokens[:, torch.randperm(9)]), connector(tokens), **EXACT)
