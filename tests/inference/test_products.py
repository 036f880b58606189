"""Packed linear layers give torch's results up to rounding, and are used only where that is their machine."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from remora.inference import products
from remora.inference.products import PackedLinear, PackedPart, pack, pays
from remora.model.patches.head import LossHead
from support.small_answerers import answerer_of, requests_of


@pytest.fixture
def paying(monkeypatch):
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no packed products")
    monkeypatch.setattr(products, "pays", lambda: True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (3, 48), (2, 17, 48), (0, 48)])
def test_results_are_those_of_double_precision(paying, bias, shape):
    torch.manual_seed(0)
    linear, rows = nn.Linear(48, 80, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        found = PackedLinear(linear)(rows)
        expected = linear.double()(rows.double())
    assert found.shape == expected.shape and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_linear_layers_and_heads_in_fp32_are_packed(paying):
    class Other(nn.Linear):
        """Some other layer."""

    head = LossHead(nn.Linear(4, 4))
    model = nn.Sequential(nn.Linear(4, 4), head, Other(4, 4), nn.Linear(4, 4).double(), nn.Embedding(4, 4))
    pack(model)
    assert [type(module) for module in model] == [PackedLinear, PackedLinear, Other, nn.Linear, nn.Embedding]


class Attention(nn.Module):
    def __init__(self, bias: bool = True, other: int = 8) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(8, 12, bias=bias), nn.Linear(8, 4, bias=bias)
        self.v_proj, self.o_proj = nn.Linear(other, 4, bias=bias), nn.Linear(8, 8)


@pytest.mark.parametrize("bias", [True, False])
def test_layers_that_read_the_same_rows_are_one_product(paying, monkeypatch, bias):
    torch.manual_seed(0)
    names = ("q_proj", "k_proj", "v_proj")
    one, other = Attention(bias), Attention(bias, other=6)
    kept = {name: getattr(one, name) for name in names}
    pack(nn.ModuleList([one, other]))
    assert {type(getattr(one, name)) for name in names} == {PackedPart}
    assert {type(getattr(other, name)) for name in names} == {type(one.o_proj)} == {PackedLinear}, "v reads other rows"
    products_made = []
    made = products._Product.__call__
    monkeypatch.setattr(products._Product, "__call__", lambda self, rows: products_made.append(1) or made(self, rows))

    def check(name: str, rows: torch.Tensor) -> None:
        found = getattr(one, name)(rows)
        torch.testing.assert_close(found, kept[name](rows), rtol=0, atol=1e-5)

    first, second = torch.randn(3, 8), torch.randn(2, 5, 8)
    with torch.inference_mode():
        for order in (names, names[::-1]):
            for name in order:
                check(name, first)
        assert len(products_made) == 2
        assert one.q_proj._whole._kept is None, "rows are not held longer than they are needed"
        orders = (("q_proj", first), ("k_proj", second), ("q_proj", first), ("q_proj", first), ("v_proj", first))
        for name, rows in (*orders, ("k_proj", first)):
            check(name, rows)
        first.mul_(2)  # the same tensor with other numbers, after all have read it
        for name in names:
            check(name, first)


def test_answers_of_a_packed_model_do_not_depend_on_the_batch(paying, tiny_tokenizer):
    answerer = answerer_of("smollm2-135m", tiny_tokenizer)
    pack(answerer.model)
    assert any(isinstance(module, PackedLinear) for module in answerer.model.llm.modules())
    requests = requests_of("smollm2-135m")[:16]
    assert answerer.answer(requests) == [answerer.answer_alone(request) for request in requests]


def test_the_choice_is_by_the_kind_of_machine(monkeypatch, tmp_path):
    for vendor, expected in (("GenuineIntel", False), ("AuthenticAMD", hasattr(torch.ops.mkldnn, "_linear_pointwise"))):
        about = tmp_path / vendor
        about.write_text(f"vendor_id : {vendor}\n")
        monkeypatch.setattr(products, "ABOUT", about)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
        pays.cache_clear()
        assert pays() is expected
    monkeypatch.setattr(products, "ABOUT", tmp_path / "none")
    pays.cache_clear()
    assert not pays()
    pays.cache_clear()
