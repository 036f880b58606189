"""The head and its loss in one: as torch's cross entropy over all logits, whatever the chunks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from remora.model.patches import head as heads
from remora.model.patches.head import LossHead

TOKENS, HIDDEN, VOCABULARY = 37, 24, 100


def given(bias: bool = True) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=bias)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    hidden = torch.randn(TOKENS, HIDDEN, generator=draw, requires_grad=True)
    return head, hidden, torch.randint(VOCABULARY, (TOKENS,), generator=draw)


def summed_loss(head, hidden, targets) -> torch.Tensor:
    return (head if isinstance(head, LossHead) else LossHead(head))(hidden, targets)


def plain(head, hidden, targets) -> torch.Tensor:
    logits = head(hidden)
    return F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), targets, reduction="sum")


def found(loss_of, head, hidden, targets, factor: float = 1.0) -> list[torch.Tensor]:
    leaves = [hidden, *(p for p in head.parameters() if p.requires_grad)]
    loss = loss_of(head, hidden, targets)
    return [loss.detach(), *torch.autograd.grad(loss * factor, leaves)]


@pytest.mark.parametrize("rows", [1, 5, 37, 1000])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_loss_and_gradients_are_those_of_all_logits_at_once(rows, bias, monkeypatch):
    monkeypatch.setattr(heads, "CHUNK", rows * VOCABULARY)
    head, hidden, targets = given(bias)
    double = nn.Linear(HIDDEN, VOCABULARY, bias=bias).double()
    double.load_state_dict({k: v.double() for k, v in head.state_dict().items()})
    expected = found(plain, double, hidden.detach().double().requires_grad_(), targets, 0.3)
    # fp32 against float64, and logits of up to 20: exp is good to 1e-6 of itself there
    for ours, theirs in zip(found(summed_loss, head, hidden, targets, 0.3), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs.detach(), rtol=1e-5, atol=1e-5)


def test_a_frozen_head_gets_no_gradient_and_makes_none(monkeypatch):
    head, hidden, targets = given()
    expected = found(plain, head, hidden, targets)[:2]
    head.requires_grad_(False)
    torch.testing.assert_close(found(summed_loss, head, hidden, targets), expected, rtol=1e-5, atol=1e-5)
    made = []
    monkeypatch.setattr(torch, "zeros_like", lambda t: made.append(t.shape))
    summed_loss(head, hidden, targets).backward()
    assert not made


def test_it_is_the_head_under_its_names():
    head, hidden, _ = given()
    owner = LossHead(head)
    assert isinstance(owner, nn.Linear) and owner.training == head.training
    assert [(n, id(p)) for n, p in owner.named_parameters()] == [(n, id(p)) for n, p in head.named_parameters()]
    assert torch.equal(owner(hidden), head(hidden))
    assert list(dict(LossHead(given(bias=False)[0]).named_parameters())) == ["weight"]


def test_a_models_head_makes_its_loss_and_stays_tied(tiny_model):
    head = tiny_model.llm.get_output_embeddings()
    assert isinstance(head, LossHead) and tiny_model.llm.lm_head is head
    assert head.weight is tiny_model.llm.get_input_embeddings().weight


def test_its_own_call_makes_the_loss_so_that_its_hooks_see_it():
    head, hidden, targets = given()
    owner, seen = LossHead(head), []
    owner.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    owner(hidden, targets=targets)
    assert seen == [hidden.shape]


def test_no_logits_outlive_their_chunk(monkeypatch):
    monkeypatch.setattr(heads, "CHUNK", 5 * VOCABULARY)
    head, hidden, targets = given()
    largest = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dim() == 2 and out.shape[1] == VOCABULARY and len(out) != HIDDEN:
                largest.append(len(out))  # but the weight, seen from its side
            return out

    with Sizes():
        summed_loss(head, hidden, targets).backward()
    assert largest and max(largest) == 5


def test_half_precision_is_that_of_autocast():
    head, hidden, targets = given()
    with torch.autocast("cpu", torch.bfloat16):
        ours = found(summed_loss, head, hidden, targets)
        theirs = found(plain, head, hidden, targets)
    # the gradient of the logits is rounded to bf16 in both, once a tensor and once a chunk: 2**-8 of the largest entry
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=2**-8, atol=2**-8 * float(b.abs().max()))


def test_the_loss_scale_of_fp16_reaches_the_gradients_of_logits():
    head, hidden, targets = given()
    hidden = (hidden.detach() * 1e-4).requires_grad_()  # the head's gradient is 1e-9 where a token is not the target
    with torch.autocast("cpu", torch.float16):
        *_, weight, _ = found(summed_loss, head, hidden, targets, 2.0**16)
    exact = found(plain, head, hidden, targets, 2.0**16)[2]
    assert bool(weight.isfinite().all())
    # fp16 has ten bits; the sums over tokens are of both signs
    torch.testing.assert_close(weight, exact, rtol=0.01, atol=0.01 * float(exact.abs().max()))
    small = exact.abs() < 2.0**16 * 1e-8
    assert bool(small.any()) and bool((weight[small] != 0).float().mean() > 0.9)


def test_nothing_supervised_is_zero_with_gradients_of_zero():
    head, hidden, targets = given()
    loss, *gradients = found(summed_loss, head, hidden[:0].detach().requires_grad_(), targets[:0])
    assert loss == 0 and all(not g.any() for g in gradients)


def test_without_gradients_none_are_made():
    head, hidden, targets = given()
    with torch.no_grad():
        loss = summed_loss(head, hidden, targets)
    assert loss.item() == pytest.approx(plain(head, hidden, targets).item(), rel=1e-6) and not loss.requires_grad
