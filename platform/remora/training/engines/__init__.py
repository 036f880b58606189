"""Training engines: the protocol `Engine`, and its implementation with DeepSpeed.

`stage.py` uses the protocol only. `hooks` has everything that relies on undocumented parts of DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Sequence

from remora.model.vlm import VisionLanguageModel
from remora.spec import Cluster, Stage
from remora.training.engines.deepspeed import DeepSpeedEngine, loading
from remora.training.engines.protocol import Engine

__all__ = ["Engine", "create", "loading"]


def create(
    model: VisionLanguageModel, groups: Sequence[dict[str, object]], stage: Stage, cluster: Cluster, step: int = 0
) -> Engine:
    """Create an engine for a model, `step` optimiser steps after the first.

    Args:
        model: with `requires_grad` set and the initial weights.
        groups: optimiser groups with `params`, `lr`, `weight_decay` and `part`.
        stage: betas, eps and clipping.
        cluster: ZeRO stage, precision and offloading.
    """
    return DeepSpeedEngine(model, groups, stage, cluster, step)
