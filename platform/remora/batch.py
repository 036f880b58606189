"""The input of a forward pass. reading/ builds it and model/ consumes it, so it is in a module below both."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from remora.token_ids import IGNORE


@dataclass
class Batch:
    """Samples of one forward pass: one per row, padded on the right (training) or left (answering), or packed
    (training).

    ids [B, T]: token ids, IMAGE at a picture's positions. mask [B, T]: 1 at tokens, 0 at padding. labels [B, T]: the
    token where it is supervised, else IGNORE. pixels [I, 3, H, W]: all pictures in reading order. keys [S] and
    image_keys [I]: seeds of the dropout masks, one per sample and per picture. lengths: tokens of each of the S samples
    packed into the one row (B = 1) without padding; empty if not packed (S = B).
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    pixels: Tensor
    keys: Tensor
    image_keys: Tensor
    lengths: tuple[int, ...] = ()
    weights: Tensor | None = None
    """[S], factors on the losses of each sample's tokens; None means 1."""

    @property
    def targets(self) -> Tensor:
        """[B, T - 1], the label that each position but the last predicts, or IGNORE. A packed sample's first token is
        never predicted: the position before it belongs to another sample."""
        targets = self.labels[:, 1:]
        if len(self.lengths) > 1:
            first = torch.tensor(self.lengths[:-1]).cumsum(0)  # start of every sample but the first
            targets = targets.index_fill(1, first.to(targets.device) - 1, IGNORE)
        return targets

    @property
    def supervised(self) -> int:
        """Number of tokens that the loss sums over."""
        return int((self.targets != IGNORE).sum())

    @property
    def supervised_by_sample(self) -> Tensor:
        """[S], number of each sample's tokens that the loss sums over."""
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
        # With output_size given, there is no synchronisation with the GPU.
        return self.weights.repeat_interleave(each.to(self.weights.device), output_size=self.ids.numel())

    def to(self, device: torch.device) -> Batch:
        tensors = [f.name for f in fields(self) if isinstance(getattr(self, f.name), Tensor)]
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})
