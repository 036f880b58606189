"""Weights and AdamW's state are saved from a fake GPU and restored to it (docs/devices.md)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("cuda_build", reason="torch is a CPU build here; next: make check-cuda", exc_type=ImportError)

import torch
from fake_cuda import CUDA, on_cuda
from fake_models import model_of

from remora.spec import Cluster, Stage
from remora.training.build import set_up
from remora.training.engines import deepspeed
from remora.training.engines.precision import LossScale


class Held(deepspeed.DeepSpeedEngine):
    """At ZeRO stage 0 on one rank, without DeepSpeed itself."""

    def __init__(self, model):
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.model, self.zero, self.rank, self.clip, self.device = model, 0, 0, 1.0, CUDA
        self.optimizer = torch.optim.AdamW(trained.values(), fused=True)
        self.names = {id(p): n for n, p in trained.items()}
        self.engine = SimpleNamespace(step=self.optimizer.step, zero_grad=self.optimizer.zero_grad)
        self.peaks, self.scale = {"all": 1.0}, LossScale("fp16")
        self.optimizer.param_groups[0]["part"] = "all"
        self._create_state(3)


@pytest.mark.parametrize("llm", ["full", {"lora": {"r": 2, "dropout": 0.0}}], ids=["full", "lora"])
def test_a_step_is_taken_and_its_state_is_saved_and_loaded(llm):
    tune = {"vision": "full", "connector": "full", "llm": llm}
    about = {"name": "here", "mixture": ["llava-pretrain-558k"], "tune": tune, "lr": 1e-3, "epochs": 1}
    model = model_of()
    set_up(model, Stage.model_validate(about), Cluster(precision="bf16"))
    with on_cuda(model):
        engine = Held(model)
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
        assert engine.step(0.5) == 0.0
        moments = engine.moments()
        saved = [engine.weights(model, trained_only=True), engine.weights(model.llm), moments]
        assert all(t.device.type == "cpu" for some in saved for t in some.values())
        assert len(moments) == 2 * len(saved[0]) and all(t.dtype == torch.float32 for t in moments.values())
        engine.load(moments, {"scale": [8.0, 1]})
        held = [t for state in engine.optimizer.state.values() for t in state.values()]
        assert all(t.device == CUDA for t in held)
