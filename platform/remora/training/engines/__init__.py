"""What a stage takes its steps with: the protocol `Engine`, and DeepSpeed behind it.

`stage.py` sees the protocol only. `hooks` holds whatever is used of DeepSpeed beyond its documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from remora.model.vlm import VisionLanguageModel
from remora.spec import Cluster, Stage
from remora.training.engines.deepspeed import DeepSpeedEngine, loading
from remora.training.engines.protocol import Engine

__all__ = ["Engine", "create", "loading"]


def create(
    model: VisionLanguageModel, groups: Sequence[dict[str, Any]], stage: Stage, cluster: Cluster, step: int = 0
) -> Engine:
    """An engine for the model as it is now, `step` optimiser steps after its first.

    Args:
        model: with `requires_grad` set; its weights are what training starts from.
        groups: optimiser groups with `params`, `lr`, `weight_decay` and `part`.
        stage: betas, eps and clipping.
        cluster: ZeRO stage, precision and offloading.
    """
    return DeepSpeedEngine(model, groups, stage, cluster, step)
