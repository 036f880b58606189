"""Linear layers on oneDNN against torch's own, and both against float64."""

from __future__ import annotations

import copy

import pytest
import torch
from test_activations import batch_of, distinct, model_of
from torch import nn
from torch.nn import functional as F

from remora.batch import Batch
from remora.marks import IGNORE, IMAGE
from remora.model import linear, vlm
from remora.model.attention import attend_per_sample
from remora.model.linear import LEAST, Linear, is_quick, product, quicken, rounded
from standins import small_llm, small_vision

SHAPES = [(1, 8, 5), (31, 16, 16), (32, 16, 16), (33, 192, 192), (700, 192, 768), (1999, 64, 48), (130, 64, 2048)]
"""Rows, inputs, outputs: below what oneDNN is given, at its edge, filled up and as they are."""


@pytest.fixture(autouse=True)
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's products are right on any CPU that has oneDNN, also where they do not pay."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linear, "pays", lambda: True)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(of, input, weight, bias):
    """Output and gradients of a sum that weighs every output differently."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in (input, weight, bias)]
    out = of(*leaves)
    (out * drawn(*out.shape, seed=9).to(out)).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


def furthest(found, exact) -> list[float]:
    """The largest error of each tensor, in parts of its largest number."""
    return [float((f - e).abs().max() / e.abs().max()) for f, e in zip(found, exact, strict=True)]


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_and_gradients_are_as_near_to_float64_as_torchs(shape, biased) -> None:
    rows, inputs, outputs = shape
    given = drawn(rows, inputs), drawn(outputs, inputs, seed=1), drawn(outputs, seed=2) if biased else None
    exact = gradients(F.linear, *(None if t is None else t.double() for t in given))
    ours, torchs = furthest(gradients(product, *given), exact), furthest(gradients(F.linear, *given), exact)
    # fp32 sums of up to 2,048 products, in another order; torch adds blocks, which may be nearer.
    assert all(a <= max(3e-6, 2 * b) for a, b in zip(ours, torchs, strict=True)), (ours, torchs)


def test_any_number_of_dimensions_and_rows_that_lie_apart() -> None:
    weight = drawn(24, 16)
    for input in (drawn(3, 40, 16), drawn(2, 3, 20, 16), drawn(40, 3, 16).transpose(0, 1), drawn(16, 50).t()):
        torch.testing.assert_close(product(input, weight), F.linear(input, weight), rtol=1e-5, atol=1e-5)
        got, expected = gradients(product, input, weight, None), gradients(F.linear, input, weight, None)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_one_vector() -> None:
    input, weight = drawn(16).requires_grad_(), drawn(8, 16)
    assert torch.equal(product(input, weight), F.linear(input, weight))


def test_what_needs_no_gradient_gets_none() -> None:
    input, weight = drawn(64, 16), drawn(8, 16).requires_grad_()
    product(input, weight).sum().backward()
    assert input.grad is None and weight.grad is not None
    input.requires_grad_()
    product(input, weight.detach()).sum().backward()
    assert input.grad is not None
    with torch.no_grad():
        assert not product(input, weight).requires_grad
    assert not product(input.detach(), weight.detach()).requires_grad


def test_half_precision_and_double_stay_torchs() -> None:
    input, weight = drawn(64, 16), drawn(8, 16)
    assert product(input.double(), weight.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert product(input, weight).dtype == torch.bfloat16


def test_layers_stay_what_they_are_but_for_their_products() -> None:
    class Quantised(nn.Linear):
        pass

    plain = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8, bias=False), Quantised(8, 8))
    quick = copy.deepcopy(plain)
    quicken(quick)
    assert [type(m) for m in quick] == [Linear, nn.GELU, Linear, Quantised]
    assert all(isinstance(m, nn.Linear) for m in (quick[0], quick[2]))
    assert quick.state_dict().keys() == plain.state_dict().keys()
    input = drawn(50, 16)
    torch.testing.assert_close(quick(input), plain(input), rtol=1e-5, atol=1e-6)


def test_results_are_torchs_to_the_bit_where_oneDNN_does_not_pay(monkeypatch) -> None:
    monkeypatch.setattr(linear, "pays", lambda: False)
    given = drawn(64, 16), drawn(8, 16, seed=1), drawn(8, seed=2)
    for a, b in zip(gradients(product, *given), gradients(F.linear, *given), strict=True):
        assert torch.equal(a, b)


def test_nobody_is_quickened_unasked(tiny_model) -> None:
    assert type(tiny_model.connector) is nn.Linear
    assert not is_quick(tiny_model.llm.get_output_embeddings())


def test_gradients_come_in_the_same_order_for_any_number_of_rows_on_any_machine(monkeypatch) -> None:
    """ZeRO 2 sums over ranks what each made first: an order that hangs on a rank's rows gave gradients 1 % off."""
    net = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8, bias=False), nn.Linear(8, 4))
    quicken(net)
    made: list[str] = []
    for name, parameter in net.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: made.append(name))
    orders = set()
    for rows, quick in ((LEAST - 1, True), (LEAST, True), (500, True), (500, False)):
        monkeypatch.setattr(linear, "pays", lambda quick=quick: quick)
        made.clear()
        net(drawn(rows, 8)).sum().backward()
        orders.add(tuple(made))
    assert len(orders) == 1 and len(orders.pop()) == 5


def test_kernels_are_kept_for_few_numbers_of_rows() -> None:
    kept = [rounded(rows) for rows in range(LEAST, 10_000)]
    assert all(rows <= up <= max(rows + LEAST - 1, rows * 17 / 16) for rows, up in enumerate(kept, LEAST))
    assert all(rounded(up) == up for up in kept)
    assert kept == sorted(kept)
    assert len(set(kept)) < 100


@pytest.mark.parametrize("vision", distinct("vision", small_vision))
def test_every_encoder_learns_the_same(vision) -> None:
    same(model_of(vision=vision))


@pytest.mark.parametrize("llm", distinct("llm", small_llm))
def test_every_language_model_learns_the_same(llm) -> None:
    same(model_of(llm=llm))


def same(model: vlm.VisionLanguageModel) -> None:
    quick = copy.deepcopy(model.eval())  # Phi-2 has dropout
    quicken(quick)
    assert sum(type(m) is Linear for m in quick.modules()) > 2
    losses = []
    for each in (model, quick):
        each.requires_grad_(True)
        losses.append(each(batch_of(each, "padded")))
        losses[-1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
    exact = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    # A key's bias moves all scores of a softmax alike: its gradient is noise around nothing, small beside the others.
    noise = 1e-6 * max(float(g.abs().max()) for g in exact.values())
    found = {n: p.grad for n, p in quick.named_parameters() if p.grad is not None}
    assert found.keys() == exact.keys()
    for name in exact:
        torch.testing.assert_close(found[name], exact[name], rtol=1e-3, atol=noise, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("frozen", [True, False])
def test_a_row_that_is_filled_up_teaches_the_same(tiny_model, monkeypatch, frozen) -> None:
    """Loss and gradients of a packed row, with its blank sample and without."""
    quicken(tiny_model)
    attend_per_sample(tiny_model.llm)
    tokens, lengths = 3 * tiny_model.image_tokens + 41, (tiny_model.image_tokens + 30, 2 * tiny_model.image_tokens + 11)
    assert rounded(tokens) > tokens
    ids = torch.arange(tokens)[None] % 50 + 3
    ids[0, 5 : 5 + tiny_model.image_tokens] = IMAGE
    labels = ids.clone()
    labels[0, : tiny_model.image_tokens + 10] = IGNORE
    size = tiny_model.image_size
    keys = torch.tensor([7, 8])
    batch = Batch(ids, torch.ones_like(ids), labels, drawn(1, 3, size, size), keys, keys[:1], lengths)
    filled = tiny_model.fill_up(batch)
    assert filled.ids.shape[1] == filled.mask.shape[1] == rounded(tokens) == sum(filled.lengths)
    assert filled.supervised == batch.supervised and int(filled.mask.sum()) == int(batch.mask.sum())
    tiny_model.requires_grad_(True)
    if frozen:
        tiny_model.llm.requires_grad_(False)

    def learnt() -> tuple[float, dict[str, torch.Tensor]]:
        tiny_model.zero_grad()
        loss = tiny_model(batch)
        loss.backward()
        return loss.item(), {n: p.grad.clone() for n, p in tiny_model.named_parameters() if p.grad is not None}

    loss, grads = learnt()
    monkeypatch.setattr(linear, "pays", lambda: False)
    expected, exact = learnt()
    assert loss == pytest.approx(expected, rel=1e-6)
    assert grads.keys() == exact.keys()
    for name in exact:
        torch.testing.assert_close(grads[name], exact[name], rtol=1e-4, atol=1e-5 * float(exact[name].abs().max()))


@pytest.mark.parametrize(("trains", "has_gradient"), [(True, True), (True, False), (False, True)])
def test_what_is_kept_for_the_backward_pass_is_what_that_needs(trains: bool, has_gradient: bool) -> None:
    """A frozen layer's input is not: a language model that only aligns would hold every state that passes."""
    input = torch.randn(LEAST, 8, requires_grad=has_gradient)
    layer = Linear(8, 4).requires_grad_(trains)
    shapes: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.append(tuple(t.shape)), lambda _: None):
        layer(input)
    assert shapes == [(LEAST, 8)] * trains + [(4, 8)] * has_gradient
