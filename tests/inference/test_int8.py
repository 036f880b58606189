"""Linear layers in 8 bits: their arithmetic by brute force, and the bundles that answer with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from remora.errors import DataError, ServingError
from remora.inference import Answerer, Request, read_bundle
from remora.inference.bundle import bundle_name, weights_digest, with_weights
from remora.inference.int8 import Int8Linear, to_int8
from remora.inference.sampling import NEAR_INT8
from remora.serving.args import EndpointArgs
from remora.serving.champion import ServedModel
from remora.serving.engines.chosen import engine_of
from support.noise import write_noise
from support.small_answerers import answerer_of, conversations, requests_of


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("bundle"))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24, 40), (3, 48, 16), (17, 33, 7), (64, 16, 8)])
def test_a_layer_is_its_integers_product(shape: tuple[int, int, int], bias: bool) -> None:
    torch.manual_seed(sum(shape))
    rows, inner, outer = shape
    linear = nn.Linear(inner, outer, bias=bias)
    x = torch.randn(rows, inner) * torch.logspace(-3, 3, rows)[:, None]
    x[0] = 0
    layer = Int8Linear(linear)
    scale_w, scale_x = (t.double().abs().amax(1, keepdim=True) / 127 for t in (linear.weight.detach(), x))
    whole_w = (linear.weight.detach().double() / scale_w).round()
    whole_x = (x.double() / scale_x.clamp(min=1e-14)).round()
    expected = whole_x @ whole_w.T * scale_x * scale_w.T + (linear.bias.double().detach() if bias else 0)
    torch.testing.assert_close(layer(x).double(), expected, rtol=2e-5, atol=1e-6)
    plain = linear(x).detach()
    assert (layer(x) - plain).norm() <= 0.02 * plain.norm()
    assert torch.equal(layer(x[None])[0], layer(x)), "of any number of dimensions"


def test_a_row_hangs_on_no_other() -> None:
    torch.manual_seed(0)
    layer, x = Int8Linear(nn.Linear(64, 96)), torch.randn(70, 64)
    whole = layer(x)
    for count in (1, 2, 5, 16, 33):
        assert torch.equal(layer(x[:count]), whole[:count])


def test_the_blocks_layers_are_replaced_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    plain, made = Answerer.load(bundle), Answerer.load(with_weights(bundle, "int8", tmp_path))
    kinds = {name: type(module) for name, module in made.model.llm.named_modules()}
    assert {name.rpartition(".")[2] for name, kind in kinds.items() if kind is Int8Linear} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert {name for name, kind in kinds.items() if kind.__name__ == "PackedLinear"} <= {"lm_head"}, "where it pays"
    rows = torch.randn(3, plain.model.llm.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(made.model.llm.lm_head(rows), plain.model.llm.lm_head(rows))
    layer = made.model.llm.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.int8 and layer.weight.nbytes == layer.in_features * layer.out_features
    assert made.joins and made.near == NEAR_INT8


@pytest.mark.slow
def test_such_a_bundle_is_a_model_of_its_own(bundle: Path, tmp_path: Path) -> None:
    before = weights_digest(bundle)
    made = with_weights(bundle, "int8", tmp_path)
    assert weights_digest(made) != before == weights_digest(bundle)
    assert (bundle_name(bundle), bundle_name(made)) == ("noise", "noise-int8")
    assert read_bundle(made, tmp_path).weights == "int8" and read_bundle(bundle, tmp_path).weights == "float32"
    assert "weights" not in json.loads((bundle / "bundle.json").read_text())
    about = [json.loads((folder / "bundle.json").read_text())["about"] for folder in (bundle, made)]
    assert about[0] == about[1]
    stamp = (made / "bundle.json").stat().st_mtime_ns
    assert with_weights(bundle, "int8", tmp_path) == made == with_weights(made, "int8", tmp_path)
    assert (made / "bundle.json").stat().st_mtime_ns == stamp, "made once"
    assert with_weights(bundle, "float32", tmp_path) == bundle
    with pytest.raises(DataError, match=r"^weights are float32 or int8; found 'int2'$"):
        with_weights(bundle, "int2", tmp_path)
    asked = [Request(conversation, 8) for conversation in conversations()[:16]]
    theirs, ours = Answerer.load(bundle).answer(asked), Answerer.load(made).answer(asked)
    assert sum(a.text == b.text for a, b in zip(theirs, ours, strict=True)) >= 4, "noise that is a little off"


def test_answers_do_not_hang_on_the_batch(tiny_tokenizer) -> None:
    answerer = answerer_of("smollm2-135m", tiny_tokenizer)
    to_int8(answerer.model.llm)
    answerer.near = NEAR_INT8
    requests = requests_of("smollm2-135m")
    assert answerer.answer(requests) == [answerer.answer_alone(request) for request in requests]


def test_a_bundle_with_other_weights_is_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    said = json.loads((bundle / "bundle.json").read_text()) | {"weights": "int3"}
    (tmp_path / "bundle.json").write_text(json.dumps(said))
    with pytest.raises(DataError, match=r"'weights' is 'int3', none of float32, int8; put the published file back"):
        bundle_name(tmp_path)


def test_vllm_runs_float32_alone(bundle: Path, tmp_path: Path) -> None:
    args = EndpointArgs(engine="vllm", weights="int8", runs=tmp_path)
    with pytest.raises(ServingError, match=r"found weights: int8; next: engine: builtin"):
        engine_of(args, ServedModel(Answerer.load(bundle), "1", folder=bundle))
