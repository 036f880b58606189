"""Connectors as a whole: what comes out, how they start, that every parameter learns, whose weights they can take."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch.func import functional_call

from remora import catalog
from remora.catalog import Connector
from remora.errors import SpecError
from remora.model.connectors import build_connector, tokens_out
from remora.model.connectors.projection import mlp

ENTRIES = catalog.entries("connectors")
READER = {"queries": 3, "depth": 2, "heads": 2, "head_width": 2}
TINY = {
    "identity": {},
    "mlp": {"depth": 2},
    "resampler": READER,
    "cross-resampler": READER,
    "qformer": READER,
    "ldp": {},
    "ldpv2": {"grid": 3},
    "pixel-shuffle": {"factor": 2},
}
"""A small one of every kind; all of them read 4 x 4 tokens."""
TOKENS, WIDTH, HIDDEN = 16, 3, 4


def entry_of(kind: str) -> Connector:
    return Connector(short="t", source="t", kind=kind, **TINY[kind])


def tiny(kind: str, seed: int = 0) -> tuple[torch.nn.Module, int]:
    """A small connector and the width that it reads."""
    torch.manual_seed(seed)
    width = HIDDEN if kind == "identity" else WIDTH
    return build_connector(entry_of(kind), width, HIDDEN), width


def test_every_kind_is_tried_and_is_in_the_catalog():
    assert set(TINY) == {e.kind for e in ENTRIES.values()}


@pytest.mark.parametrize("kind", TINY)
def test_vision_tokens_become_embeddings(kind):
    connector, width = tiny(kind)
    out = connector(torch.randn(3, TOKENS, width))
    assert out.shape == (3, tokens_out(entry_of(kind), TOKENS), HIDDEN)
    wanted = {"resampler": 3, "cross-resampler": 3, "qformer": 3, "ldp": 4, "ldpv2": 9, "pixel-shuffle": 4}
    assert out.shape[1] == wanted.get(kind, TOKENS)


@pytest.mark.parametrize("kind", TINY)
def test_no_picture_sees_another(kind):
    connector, width = tiny(kind)
    tokens = torch.randn(2, TOKENS, width)
    for parameter in connector.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # an untrained Q-Former this small hardly attends to the picture
    with torch.inference_mode():
        # another batch size adds up in another order: a few fp32 roundings
        assert torch.allclose(connector(tokens[1:]), connector(tokens)[1:], atol=1e-5)
        first, second = connector(tokens)
        assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [k for k in TINY if k != "identity"])
def test_the_callers_seed_decides_the_weights(kind):
    first, again, other = (tiny(kind, seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


@pytest.mark.parametrize("kind", [k for k in TINY if k != "identity"])
def test_gradients_are_those_of_finite_differences(kind):
    connector, width = tiny(kind)
    connector = connector.double()
    names, values = zip(*((n, p.detach()) for n, p in connector.named_parameters()), strict=True)
    inputs = [torch.randn(1, TOKENS, width).double(), *values]

    def run(tokens, *parameters):
        return functional_call(connector, dict(zip(names, parameters, strict=True)), (tokens,))

    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in inputs], fast_mode=True)


@pytest.mark.parametrize("kind", [k for k in TINY if k != "identity"])
def test_every_parameter_learns_and_every_token_is_read(kind):
    connector, width = tiny(kind)
    tokens = torch.randn(2, TOKENS, width, requires_grad=True)
    out = connector(tokens)
    (out * torch.randn(out.shape)).sum().backward()
    # a bias shared by all keys shifts every score alike, which the softmax does not see
    still = [n for n, p in connector.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert all(n.endswith("key.bias") for n in still)
    assert tokens.grad.abs().amax(dim=-1).min() > 0


def test_identity_has_nothing_to_train_and_wants_equal_widths():
    assert not list(tiny("identity")[0].parameters())
    with pytest.raises(SpecError, match="identity passes the encoder's 3 channels on, and the language model reads 4"):
        build_connector(entry_of("identity"), 3, 4)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_an_mlp_has_as_many_linear_layers_as_its_depth(depth):
    assert sum(isinstance(m, torch.nn.Linear) for m in mlp(5, 7, depth)) == depth


@pytest.mark.parametrize(("name", "std"), [("qformer", 0.02), ("pixel-shuffle-4", 0.02)])
def test_published_initialisations_are_normal(name, std):
    entry = ENTRIES[name].model_copy(update={"depth": 2} if name == "qformer" else {})
    connector = build_connector(entry, 96, 128)
    for parameter, value in connector.named_parameters():
        if parameter.endswith("bias"):
            assert not value.any(), parameter
        elif "norm" in parameter.lower():
            assert (value == 1).all(), parameter
        else:
            # the spread of n draws is within 4 / sqrt(2 n) of the true one but once in 16,000
            assert abs(value.std().item() / std - 1) < 4 / math.sqrt(2 * value.numel()), parameter
    assert name != "pixel-shuffle-4" or connector.project.bias is None


@pytest.mark.parametrize("name", ["linear", "mlp2x_gelu", "ldp", "ldpv2"])
def test_the_others_start_as_torch_starts_their_layers(name):
    torch.manual_seed(0)
    for module in build_connector(ENTRIES[name], 64, 96).modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert bound * 0.9 < module.weight.abs().max() <= bound


def test_the_catalogs_qformer_is_bert_base_for_queries_only():
    with torch.device("meta"):
        qformer = build_connector(ENTRIES["qformer"], 1024, 2560)
    layers = qformer.bert.encoder.layer
    assert len(layers) == 12
    assert [hasattr(layer, "crossattention") for layer in layers] == [True, False] * 6
    # self-attention 4 (768^2 + 768), feed-forward x4, their norms; cross-attention reads 1024 channels; a last norm
    square, norm = 768 * 768 + 768, 2 * 768
    layer = 4 * square + norm + 768 * 3072 + 3072 + 3072 * 768 + 768 + norm
    cross = 2 * square + 2 * (1024 * 768 + 768) + norm
    ends = 128 * 768 + norm + 768 * 2560 + 2560
    assert sum(p.numel() for p in qformer.parameters()) == 12 * layer + 6 * cross + ends
    assert {m.p for m in qformer.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


def parts(prefix: str, **shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.{n}": s for n, s in shapes.items()}


def linear(prefix: str, n: int, m: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return parts(prefix, weight=(m, n), **({"bias": (m,)} if bias else {}))


def norm(prefix: str, n: int) -> dict[str, tuple[int, ...]]:
    return parts(prefix, weight=(n,), bias=(n,))


def mobilevlm_ldp() -> dict[str, tuple[int, ...]]:
    names = linear("model.mlp.1", 3, 4) | linear("model.mlp.3", 4, 4)
    for i in (1, 2):
        block = f"model.mb_block.{i}.block"
        names |= {f"{block}.0.0.weight": (4, 1, 3, 3), f"{block}.2.0.weight": (4, 4, 1, 1)}
        names |= norm(f"{block}.0.1", 4) | norm(f"{block}.2.1", 4)
        names |= parts(f"{block}.1.fc1", weight=(8, 4, 1, 1), bias=(8,))
        names |= parts(f"{block}.1.fc2", weight=(4, 8, 1, 1), bias=(4,))
    return names


def mobilevlm_ldpv2() -> dict[str, tuple[int, ...]]:
    convolution = parts("peg.peg.0", weight=(4, 1, 3, 3), bias=(4,))
    return linear("mlp.mlp.0", 3, 4) | linear("mlp.mlp.2", 4, 4) | convolution


def factory_resampler() -> dict[str, tuple[int, ...]]:
    names = {"latents": (3, 4)} | linear("linear", 3, 4) | norm("norm", 4)
    for i in range(2):
        first, second = f"layers.{i}.0", f"layers.{i}.1"
        names |= norm(f"{first}.norm_media", 4) | norm(f"{first}.norm_latents", 4) | norm(f"{second}.0", 4)
        names |= linear(f"{first}.to_q", 4, 4, bias=False) | linear(f"{first}.to_kv", 4, 8, bias=False)
        names |= linear(f"{first}.to_out", 4, 4, bias=False)
        names |= linear(f"{second}.1", 4, 16, bias=False) | linear(f"{second}.3", 16, 4, bias=False)
    return names


def paper_resampler() -> dict[str, tuple[int, ...]]:
    names = {"queries": (3, 4)} | norm("post_norm", 4) | linear("final_proj", 4, 4, bias=False)
    for i in range(2):
        block = f"resampler_blocks.{i}"
        names |= norm(f"{block}.norm_image", 3) | norm(f"{block}.norm_hidden", 4) | norm(f"{block}.feed_forward.0", 4)
        names |= linear(f"{block}.to_q", 4, 4, bias=False) | linear(f"{block}.to_k", 3, 4, bias=False)
        names |= linear(f"{block}.to_v", 3, 4, bias=False) | linear(f"{block}.to_out", 4, 4, bias=False)
        names |= linear(f"{block}.feed_forward.1", 4, 16, bias=False)
        names |= linear(f"{block}.feed_forward.3", 16, 4, bias=False)
    return names


def factory_qformer() -> dict[str, tuple[int, ...]]:
    names = {"query_tokens": (1, 3, 4)} | linear("projector", 4, 4)
    for i in range(2):
        layer = f"bert.encoder.layer.{i}"
        for attention, width in [("attention", 4)] + [("crossattention", 3)] * (i == 0):
            own = f"{layer}.{attention}"
            names |= linear(f"{own}.self.query", 4, 4) | linear(f"{own}.self.key", width, 4)
            names |= linear(f"{own}.self.value", width, 4)
            names |= linear(f"{own}.output.dense", 4, 4) | norm(f"{own}.output.LayerNorm", 4)
        names |= linear(f"{layer}.intermediate_query.dense", 4, 16)
        names |= linear(f"{layer}.output_query.dense", 16, 4) | norm(f"{layer}.output_query.LayerNorm", 4)
    return names


LDP_NAMES = {
    r"model\.mlp\.1": "mlp.0",
    r"model\.mlp\.3": "mlp.2",
    r"model\.mb_block\.1": "blocks.0",
    r"model\.mb_block\.2": "blocks.1",
    r"block\.0\.0": "depthwise",
    r"block\.0\.1": "norm_depthwise",
    r"block\.1\.fc": "squeeze_excite.fc",
    r"block\.2\.0": "pointwise",
    r"block\.2\.1": "norm_pointwise",
}
RESAMPLER_NAMES = {
    r"^linear": "project",
    r"\.0\.norm_media": ".norm_tokens",
    r"\.0\.norm_latents": ".norm_latents",
    r"\.0\.to_q": ".query",
    r"\.0\.to_kv": ".key_value",
    r"\.0\.to_out": ".out",
    r"(layers\.\d+)\.1\.": r"\1.feed_forward.",
}
PAPER_NAMES = {
    "resampler_blocks": "layers",
    "norm_image": "norm_tokens",
    "norm_hidden": "norm_queries",
    r"to_q\.": "query.",
    r"to_k\.": "key.",
    r"to_v\.": "value.",
    r"to_out\.": "out.",
    "post_norm": "norm",
    "final_proj": "project",
}
QFORMER_NAMES = {"query_tokens": "queries", "projector": "project", r"attention\.self": "attention.attention"}


@pytest.mark.parametrize(
    ("kind", "published", "renames"),
    [
        ("ldp", mobilevlm_ldp(), LDP_NAMES),
        ("ldpv2", mobilevlm_ldpv2(), {r"mlp\.mlp": "mlp", r"peg\.peg\.0": "place"}),
        ("resampler", factory_resampler(), RESAMPLER_NAMES),
        ("cross-resampler", paper_resampler(), PAPER_NAMES),
        # Factory's norm of the queries has no gain and no bias
        ("qformer", factory_qformer() | norm("bert.layernorm", 4), QFORMER_NAMES),
    ],
)
def test_published_weights_fit_after_the_renames_of_the_docstring(kind, published, renames):
    names = dict(published)
    for old, new in renames.items():
        names = {re.sub(old, new, name): shape for name, shape in names.items()}
    assert names == {n: tuple(t.shape) for n, t in tiny(kind)[0].state_dict().items()}
