"""Operations that a plan counts are those that torch counts over the same passes, on compositions of real size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import flop_registry

from remora.model.patches.head import LossHead
from remora.spec import Cluster, Stage
from remora.training import traced
from remora.training.live import LiveBytes
from remora.training.rehearsal import Pass

TUNINGS = {
    "align": {"vision": "frozen", "connector": "full", "llm": "frozen"},
    "finetune": {"vision": "frozen", "connector": "full", "llm": "full"},
    "share": {"vision": {"from": 12}, "connector": "full", "llm": "full"},
    "lora": {"vision": "frozen", "connector": "full", "llm": {"lora": {"r": 16, "dropout": 0}}},
}


def apart(head: LossHead, hidden: torch.Tensor, targets: torch.Tensor, weights: object = None) -> torch.Tensor:
    """The loss by torch's own operations: its table has no addmm_, which makes the head's gradient."""
    return F.cross_entropy(nn.Linear.forward(head, hidden), targets.new_zeros(len(targets)).to(hidden.device))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vision", "connector", "llm", "tuning"),
    [
        ("clip-l-336", "mlp2x_gelu", "tinyllama-1.1b-chat", "finetune"),
        ("clip-l-336", "mlp2x_gelu", "tinyllama-1.1b-chat", "share"),
        ("siglip2-base-224", "mlp2x_gelu", "qwen2-0.5b", "align"),
        ("dinov2-l-224", "mlp2x_gelu", "pythia-1.4b", "lora"),
        ("siglip2-base-224", "ldpv2", "stablelm-2-1.6b", "finetune"),
    ],
)
def test_a_plan_counts_what_torch_counts(vision, connector, llm, tuning, monkeypatch):
    total = 0

    class Counting(LiveBytes):
        def __torch_dispatch__(
            self,
            func: torch._ops.OpOverload,
            types: Sequence[type],
            args: Sequence[object] = (),
            kwargs: Mapping[str, object] | None = None,
        ) -> object:
            nonlocal total
            out = super().__torch_dispatch__(func, types, args, kwargs)
            if func.overloadpacket in flop_registry:
                total += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
            return out

    monkeypatch.setattr(traced, "LiveBytes", Counting)
    monkeypatch.setattr(
        LossHead, "forward", lambda head, x, targets=None, weights=None: apart(head, x, targets, weights)
    )
    given = {"name": "test", "mixture": ["llava-665k"], "lr": 1e-3, "steps": 4, "tune": TUNINGS[tuning]}
    stage, one = Stage.model_validate(given), Pass(2, 640, 2, 1280)
    parts = {"vision": vision, "connector": connector, "llm": llm}
    with sdpa_kernel(SDPBackend.MATH):  # a fused kernel's backward pass computes the scores again
        units = traced.trace(stage, parts, Cluster(rows="padded", zero=0), one, 1, gpu=False).flops
    ours = one.pictures * units["picture"] + one.tokens * units["token"]
    ours += (one.tokens - one.samples) * units["supervised token"]
    ours += 2 * one.samples * one.length**2 * units["squared"]  # torch counts causal attention whole
    assert ours == pytest.approx(total, rel=0.02)
