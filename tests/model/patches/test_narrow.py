"""The last block where there is a loss: losses and gradients of the whole block, in every class of the catalog."""

from __future__ import annotations

import pytest
import torch
from test_activations import batch_of, distinct, model_of
from torch import nn

from remora.batch import Batch
from remora.model.blocks import blocks_of
from remora.model.patches.activations import checkpoint_activations, plain_name
from remora.model.patches.attention import attend_per_sample, states
from remora.model.patches.narrow import narrow, only
from remora.model.tuning import freeze_and_train
from remora.model.vlm import VisionLanguageModel
from remora.reading.batches import collate
from remora.reading.prompt import Tokens
from remora.spec import Lora, PartTuning, Tuning
from support.standins import small_llm

ADAPTED = PartTuning(mode="lora", lora=Lora(r=2, alpha=4, dropout=0.3))
FULL = Tuning(vision="frozen", connector="full", llm="full")


def passed(
    llm: str,
    rows: str,
    narrowed: bool,
    tuning: Tuning = FULL,
    *,
    batch: Batch | None = None,
    checkpointed: bool = False,
):
    """(loss, gradients, model) of one forward and backward pass."""
    model = model_of(llm=llm)
    if rows == "packed":
        attend_per_sample(model.llm)
    freeze_and_train(model, tuning)
    if narrowed:
        model.narrowed = narrow(model.llm)
        assert model.narrowed
    if checkpointed:
        checkpoint_activations(model)
    loss = model(batch or batch_of(model, rows))
    loss.backward()
    return loss, {plain_name(n): p.grad for n, p in model.named_parameters() if p.requires_grad}, model


def near(a, b) -> None:
    """As far apart as sums in another order may be; an entry of a gradient by the gradient's size."""
    torch.testing.assert_close(a[0], b[0], rtol=1e-6, atol=0)
    assert a[1].keys() == b[1].keys()
    for name, gradient in a[1].items():
        torch.testing.assert_close(gradient, b[1][name], rtol=0, atol=2e-6 * float(b[1][name].abs().max()), msg=name)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rows", ["packed", "padded"])
@pytest.mark.parametrize("llm", distinct("llm", small_llm))
def test_every_language_model_has_the_loss_and_gradients_of_its_whole_block(llm, rows):
    near(passed(llm, rows, True), passed(llm, rows, False))


def seen_by_the_mlp(model: VisionLanguageModel, batch: Batch) -> set[int]:
    """Rows that the layers of the last block's MLP get in a pass."""
    seen: set[int] = set()
    for layer in blocks_of(model.llm)[0][-1].mlp.children():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda m, i, o: seen.add(i[0].numel() // m.in_features))
    model(batch)
    return seen


def test_the_last_block_sees_supervised_positions_alone():
    """tests/training/test_flops.py counts the operations of all its layers."""
    _, _, model = passed("demo-2m", "packed", True)
    last, batch = blocks_of(model.llm)[0][-1], batch_of(model, "packed")
    assert batch.supervised < batch.ids.numel()
    assert seen_by_the_mlp(model, batch) == {batch.supervised}
    attention = last.self_attn
    behind = [last.post_attention_layernorm, last.mlp, attention.q_proj, attention.o_proj, model.llm.model.norm]
    assert set(model.narrowed) == set(behind)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("rows", ["packed", "padded"])
@pytest.mark.parametrize("how", [ADAPTED, PartTuning(mode="full")])
def test_dropout_has_the_same_masks(rows, how):
    tuning = Tuning(vision="frozen", connector="full", llm=how)
    near(passed("phi-2", rows, True, tuning), passed("phi-2", rows, False, tuning))


def test_a_frozen_language_model_hands_the_same_gradients_to_the_connector():
    tuning = Tuning(vision="frozen", connector="full", llm="frozen")
    near(passed("demo-2m", "packed", True, tuning), passed("demo-2m", "packed", False, tuning))


def test_blocks_that_are_computed_again_change_nothing():
    again, kept = (passed("demo-2m", "packed", True, checkpointed=on) for on in (True, False))
    assert torch.equal(again[0], kept[0])
    assert all(torch.equal(g, kept[1][n]) for n, g in again[1].items())


def test_without_a_loss_every_parameter_still_has_a_gradient():
    """Ranks sum gradients in step; a rank without gradients would hang."""
    model = model_of()
    one = collate([(Tokens([2, 3, 4], [-100] * 3, 0), [])], 1, model.image_size, rows="packed")
    loss, gradients, _ = passed("demo-2m", "packed", True, batch=one)
    assert loss == 0
    assert all(g is not None and not g.any() for g in gradients.values())


def test_outside_of_a_training_pass_the_block_is_whole():
    _, _, model = passed("demo-2m", "packed", True)
    row = torch.randn(1, 6, model.llm.config.hidden_size)
    plain = model_of()
    with torch.no_grad():
        torch.testing.assert_close(states(model.llm, row), states(plain.llm, row))
        with only(model.narrowed, torch.tensor([2]), row.shape[:2]), pytest.raises(RuntimeError):
            raise RuntimeError("in the middle of a pass")
        torch.testing.assert_close(states(model.llm, row), states(plain.llm, row))


class Mixing(nn.Module):
    """An MLP that looks at other positions."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input):
        return self.inner(input + input.mean(1, keepdim=True))


def test_what_looks_at_other_positions_stays_whole():
    model = model_of()
    last = blocks_of(model.llm)[0][-1]
    last.mlp = Mixing(last.mlp)
    found = narrow(model.llm)
    assert last.mlp not in found
    assert last.self_attn.o_proj in found
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())  # nothing is left of the trial
