"""The loss as it was published: the mean over groups of samples of each group's mean over its supervised tokens.

transformers' Trainer takes the mean of what one device puts through the model at once, then the mean of those over
devices and accumulation. A token of a short answer so weighs more than one of a long answer elsewhere in the step. What
is a group there follows from the machine; here it is the recipe's (`loss_groups`): neighbours in the order of samples.
So the weight of a token, tokens of the step / (groups x tokens of its group), is a function of the spec and the step,
the same however the step is split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from remora.batch import Batch
from remora.reading.batches import StageData


def count_groups(data: StageData, step: int, batches: Sequence[Batch]) -> list[int]:
    """Supervised tokens of each of the step's groups in these micro batches; none where the recipe has no groups."""
    if not data.stage.loss_groups:
        return []
    counts = torch.zeros(math.ceil(len(data.positions(step)) / data.stage.loss_groups), dtype=torch.long)
    for batch in batches:
        counts.index_add_(0, _groups_of(data, step, batch, len(counts)), batch.supervised_by_sample)
    return counts.tolist()


def weigh_groups(data: StageData, step: int, batches: Sequence[Batch], counts: Sequence[float]) -> list[Batch]:
    """The micro batches with each sample's weight, from the supervised tokens that all ranks have of each group.

    Weights are 1 in the mean over the step's tokens, so that sums and means mean what they do without groups. A group
    without a supervised token counts for nothing.
    """
    if not counts:
        return list(batches)
    tokens = torch.tensor(counts, dtype=torch.float64)
    weights = (tokens.sum() / ((tokens > 0).sum() * tokens.clamp(min=1))).float()
    return [replace(b, weights=weights[_groups_of(data, step, b, len(counts))]) for b in batches]


def _groups_of(data: StageData, step: int, batch: Batch, count: int) -> torch.Tensor:
    """[S], the number of each sample's group in the step; any for a blank sample, whose key is no position's."""
    assert data.stage.loss_groups
    first = data.seed + data.positions(step).start
    return ((batch.keys - first) // data.stage.loss_groups).clamp(0, count - 1)
