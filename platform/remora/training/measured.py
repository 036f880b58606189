"""A stage's largest passes and a step for real, with random weights: what they took, in memory and time.

`training.traced` predicts what this measures: tests and benchmarks/planning.py compare them. It needs a process
group, and neither weights nor data.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from remora.model.tuning import parameter_groups
from remora.processes import peak_memory
from remora.spec import Cluster, Stage
from remora.training import engines
from remora.training.build import set_up
from remora.training.engines.simulated import WEIGHTS
from remora.training.live import LiveBytes
from remora.training.rehearsal import Pass
from remora.training.traced import sketched


@dataclass(frozen=True)
class StepTaken:
    """What a rank took."""

    peak: int
    """Bytes of tensors; on a GPU, what its allocator gave out."""
    resident: int
    """Bytes of the process, at its peak so far."""
    seconds: float
    """Of the last step."""


def measure(
    stage: Stage, parts: Mapping[str, str], cluster: Cluster, one: Pass, several: bool = False, steps: int = 1
) -> StepTaken:
    """Take `steps` steps of one pass each, or of two, and count the first.

    All ranks of the process group call it together.
    """
    live = LiveBytes()
    with live:
        torch.manual_seed(0)
        model = sketched(stage, parts)
        set_up(model, stage, cluster)
        for tensor in [*model.parameters(), *model.buffers()]:
            live.see(tensor, WEIGHTS)
        engine = engines.create(model, parameter_groups(model, stage), stage, cluster)
    seconds = 0.0
    try:
        for number in range(steps):
            live.peak = live.total
            began = time.monotonic()
            if number:  # counting takes time
                _step(engine, one, cluster, several)
            else:
                engine.memory()
                with live:
                    _step(engine, one, cluster, several)
                peak = int(engine.memory() * (1 << 30)) if engine.device.type == "cuda" else live.peak
            seconds = time.monotonic() - began
        return StepTaken(peak, peak_memory(), seconds)
    finally:
        engine.close()


def _step(engine: engines.Engine, one: Pass, cluster: Cluster, several: bool) -> None:
    for number in range(1 + several):
        batch = one.batch(engine.model, cluster.rows == "packed")
        loss = engine.forward(batch)
        engine.backward(loss, tokens=float(one.tokens), last=number == several)
        del loss, batch
    engine.step(1.0)
