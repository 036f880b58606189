"""Connectors: shapes, the MLP against the sum written out, and a resampler whose every part learns."""

from __future__ import annotations

import math

import pytest
import torch

from remora import catalog
from remora.model.connectors import Resampler, build_connector, mlp, tokens_out

ENTRIES = catalog.entries("connectors")


@pytest.mark.parametrize(("name", "entry"), ENTRIES.items(), ids=ENTRIES)
@pytest.mark.parametrize("tokens", [9, 20])
def test_vision_tokens_become_embeddings(name, entry, tokens):
    out = build_connector(entry, 12, 16)(torch.randn(3, tokens, 12))
    assert out.shape == (3, tokens_out(entry, tokens), 16)
    assert tokens_out(entry, tokens) == (9 if name == "resampler" else tokens)


def test_the_mlp_is_linear_gelu_linear():
    torch.manual_seed(0)
    connector = mlp(3, 2, depth=2).double()
    first, _, second = connector
    tokens = torch.randn(1, 4, 3, dtype=torch.float64)

    def linear(layer, vector):
        rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        return [sum(w * x for w, x in zip(row, vector, strict=True)) + bias for row, bias in rows]

    def gelu(x):
        return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))

    expected = [linear(second, [gelu(h) for h in linear(first, token)]) for token in tokens[0].tolist()]
    assert torch.allclose(connector(tokens)[0], torch.tensor(expected, dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_an_mlp_has_as_many_linear_layers_as_its_depth(depth):
    assert sum(isinstance(m, torch.nn.Linear) for m in mlp(5, 7, depth)) == depth


def test_every_parameter_of_the_resampler_learns():
    torch.manual_seed(0)
    resampler = build_connector(ENTRIES["resampler"], 12, 16)
    tokens = torch.randn(2, 9, 12, requires_grad=True)
    (resampler(tokens) ** 2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in resampler.parameters())
    assert tokens.grad.abs().amin(dim=-1).min() > 0  # every token is read


def test_the_resampler_reads_a_set_and_no_picture_sees_another():
    torch.manual_seed(0)
    resampler = Resampler(12, 16, queries=4, depth=2, heads=2, head_width=8).eval()
    tokens = torch.randn(2, 9, 12)
    with torch.inference_mode():
        out = resampler(tokens)
        # attention sums in another order: fp32 rounding of a few 1e-7, through two layers
        assert torch.allclose(resampler(tokens[:, torch.randperm(9)]), out, atol=1e-5)
        assert torch.allclose(resampler(tokens[1:]), out[1:], atol=1e-5)
        assert not torch.allclose(out[0], out[1], atol=1e-2)


def test_the_resampler_against_attention_written_out():
    torch.manual_seed(0)
    layer = Resampler(6, 8, queries=3, depth=1, heads=2, head_width=5).layers[0].double()
    latents, tokens = (torch.randn(1, n, 8, dtype=torch.float64) for n in (3, 4))
    normed, context = (
        layer.norm_latents(latents),
        torch.cat([layer.norm_tokens(tokens), layer.norm_latents(latents)], 1),
    )
    keys, values = layer.key_value(context).split(10, dim=-1)
    heads = []
    for h in range(2):
        q, k, v = (x[0, :, 5 * h : 5 * h + 5] for x in (layer.query(normed), keys, values))
        heads.append(torch.softmax(q @ k.T / math.sqrt(5), dim=-1) @ v)
    attended = latents + layer.out(torch.cat(heads, dim=-1))
    assert torch.allclose(layer(latents, tokens), attended + layer.feed_forward(attended), rtol=1e-10)
