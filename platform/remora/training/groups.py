"""The loss of the published runs: the mean, over groups of samples, of each group's mean over its supervised tokens.

transformers' Trainer takes the mean over each micro batch, then the mean of those over devices and gradient
accumulation. So a token of a short answer weighs more than one of a long answer elsewhere in the step. There the groups
depend on the machine; here they are set by the recipe (`loss_groups`): adjacent samples in the stage's order. The
weight of a token, tokens of the step / (groups x tokens of its group), is thus a function of the spec and the step,
however the step is split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from remora.batch import Batch
from remora.reading.batches import StageData


def count_groups(data: StageData, step: int, batches: Sequence[Batch]) -> list[int]:
    """Supervised tokens of each group of the step in these micro batches; empty if the recipe has no groups."""
    if not data.stage.loss_groups:
        return []
    counts = torch.zeros(math.ceil(len(data.positions(step)) / data.stage.loss_groups), dtype=torch.long)
    for batch in batches:
        counts.index_add_(0, _groups_of(data, step, batch, len(counts)), batch.supervised_by_sample)
    return counts.tolist()


def weigh_groups(data: StageData, step: int, batches: Sequence[Batch], counts: Sequence[float]) -> list[Batch]:
    """The micro batches with each sample's weight, from each group's supervised tokens over all ranks.

    The mean of the weights over the step's tokens is 1, so sums and means have the same scale as without groups. A
    group without supervised tokens is ignored.
    """
    if not counts:
        return list(batches)
    tokens = torch.tensor(counts, dtype=torch.float64)
    weights = (tokens.sum() / ((tokens > 0).sum() * tokens.clamp(min=1))).float()
    return [replace(b, weights=weights[_groups_of(data, step, b, len(counts))]) for b in batches]


def _groups_of(data: StageData, step: int, batch: Batch, count: int) -> torch.Tensor:
    """[S], the index of each sample's group in the step; arbitrary for a blank sample, whose key is not a position."""
    assert data.stage.loss_groups
    first = data.seed + data.positions(step).start
    return ((batch.keys - first) // data.stage.loss_groups).clamp(0, count - 1)
