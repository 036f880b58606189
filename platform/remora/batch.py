"""What a forward pass is given: made by reading/, taken by model/, so it stands below both."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from remora.marks import IGNORE


@dataclass
class Batch:
    """Samples padded on the right, one a row (training), or on the left (answering), or packed into one row (training).

    ids [B, T] with IMAGE where a picture's tokens go; mask [B, T], 1 where a token is; labels [B, T], the token itself
    where it is supervised and IGNORE elsewhere; pixels [I, 3, H, W], all pictures in reading order; keys [S] and
    image_keys [I], numbers that dropout masks follow from: one a sample, one a picture. `lengths` are the tokens of a
    packed row's S samples, which follow each other in the one row (B = 1) without padding; empty where S = B.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    pixels: Tensor
    keys: Tensor
    image_keys: Tensor
    lengths: tuple[int, ...] = ()
    weights: Tensor | None = None
    """[S], what the losses of each sample's tokens are multiplied by; all by 1 if not given."""

    @property
    def targets(self) -> Tensor:
        """[B, T - 1], what each position but the last is to predict, or IGNORE: a sample's last position has nothing
        behind it, so its first token is never predicted."""
        targets = self.labels[:, 1:]
        if len(self.lengths) > 1:
            first = torch.tensor(self.lengths[:-1]).cumsum(0)  # of all samples but the first
            targets = targets.index_fill(1, first.to(targets.device) - 1, IGNORE)
        return targets

    @property
    def supervised(self) -> int:
        """Tokens that the loss sums over."""
        return int((self.targets != IGNORE).sum())

    @property
    def supervised_by_sample(self) -> Tensor:
        """[S], the tokens of each sample that the loss sums over."""
        counted = F.pad((self.targets != IGNORE).long(), (0, 1))  # [B, T]
        if not self.lengths:
            return counted.sum(1)
        return torch.stack([sample.sum() for sample in counted[0].split(self.lengths)])

    @property
    def token_weights(self) -> Tensor | None:
        """[B * T], each position's weight."""
        if self.weights is None:
            return None
        each = torch.tensor(self.lengths) if self.lengths else torch.tensor([self.ids.shape[1]] * len(self.ids))
        # Told its size, a GPU is not waited for.
        return self.weights.repeat_interleave(each.to(self.weights.device), output_size=self.ids.numel())

    def to(self, device: torch.device) -> Batch:
        tensors = [f.name for f in fields(self) if isinstance(getattr(self, f.name), Tensor)]
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})
