"""Run by the ranks of test_traps: one stage under every setting, with its engine's state before and after each step.

torchrun --nproc-per-node 2 trap_ranks.py job.json out.json '{"zero-2": {"cluster": {"zero": 2}, "stop": 4}, …}'

With `stop` the run ends before that step is taken, and begins again.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from remora.model.split import is_split
from remora.training import engines, stage
from remora.training.engines import hooks
from remora.training.engines.deepspeed import DeepSpeedEngine
from remora.training.job import StageJob
from remora.training.journal import JOURNAL, steps_of


class Stopped(Exception):
    """Raised on all ranks at once, as if the machine were lost."""


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trained parameters before there is an engine; at ZeRO 3 the ranks hold shares of them from the start."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    shares = [p for p in trained.values() if is_split(p)]
    with hooks.deepspeed().zero.GatheredParameters(shares) if shares else contextlib.nullcontext():
        return {n: p.detach().clone() for n, p in trained.items()}


def spied(stop: int | None) -> tuple[type[DeepSpeedEngine], dict[str, Any]]:
    """An engine that writes down what it holds; one that stops counts its own steps."""
    seen: dict[str, Any] = {"rates": [], "counters": [], "pictures": [], "torch_norms": []}

    class Spied(DeepSpeedEngine):
        def __init__(self, model, *args, **kwargs):
            before = whole(model)
            super().__init__(model, *args, **kwargs)
            after = self.weights(model, trained_only=True)  # on rank 0, and so is what is written down
            assert after.keys() == before.keys() or self.rank
            seen["moved"] = max((float((after[n] - before[n]).abs().max()) for n in after), default=None)
            seen["counters"].append(self.counters())
            self.shown: list[int] = []

        def counters(self) -> list[float]:
            """How many steps AdamW thinks it has taken, for every parameter that has a state."""
            states = hooks.torch_optimizer(self.optimizer).state.values()
            return sorted({float(state["step"]) for state in states})

        def forward(self, batch):
            self.shown.append(len(batch.pixels))
            return super().forward(batch)

        def step(self, *args, **kwargs):
            if len(seen["rates"]) == stop:
                raise Stopped
            if self.world == 1 and self.zero == 0:
                grads = [p.grad for p in self.model.parameters() if p.grad is not None]
                seen["torch_norms"].append(float(torch.nn.utils.get_total_norm(grads)))
            taken = super().step(*args, **kwargs)
            seen["counters"].append(self.counters())
            seen["rates"].append([[g["part"], g["lr"]] for g in self.optimizer.param_groups])
            ranks: list[list[int]] = [[]] * self.world
            dist.all_gather_object(ranks, self.shown)
            seen["pictures"].append(ranks)
            self.shown = []
            return taken

    return Spied, seen


def main() -> None:
    job = StageJob.from_json(Path(sys.argv[1]).read_text())
    dist.init_process_group("gloo")
    out = {}
    for name, setting in json.loads(sys.argv[3]).items():
        folder = job.folder / name
        folder.mkdir(exist_ok=True)
        this = replace(job, folder=folder, cluster=job.cluster.model_copy(update=setting["cluster"]))
        if "stop" in setting:
            engines.create, _ = spied(setting["stop"])
            try:
                stage.run(this)
            except Stopped:
                dist.barrier()
        engines.create, seen = spied(None)
        stage.run(this)
        out[name] = seen | {"steps": steps_of(folder / JOURNAL)}
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(out))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
