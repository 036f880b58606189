"""The base class of vision encoders: pixels in, tokens out, with an ordered list of blocks."""

from __future__ import annotations

from torch import Tensor, nn

from remora.catalog import Vision
from remora.errors import SpecError


class Tower(nn.Module):
    """A vision encoder. `forward` maps pixels [B, 3, H, W] to tokens [B, N, width].

    A tower stays in eval mode even when its weights train: batch statistics and drop paths would depend on how a batch
    is split over workers.
    """

    blocks: nn.ModuleList
    """All blocks of the published encoder, in order, so that `{last: n}` and `{from: n}` mean the same as in papers. A
    block after the one whose output is used is an `Unread`: `{from: 12}` of 24 blocks with layer -2 trains blocks 12 to
    22, and so does `{last: 12}`."""
    tail: list[nn.Module]
    """Modules after the last used block; they train whenever the last block does."""

    def train(self, mode: bool = True) -> Tower:
        return super().train(False)


class Unread(nn.Module):
    """Placeholder for a block whose output is not used: it has no weights and is never run."""

    def forward(self, hidden: Tensor, *args: object, **kwargs: object) -> Tensor:
        return hidden


def blocks_read(entry: Vision, total: int) -> int:
    """How many of an encoder's `total` blocks run to compute the entry's layer.

    Raises:
        SpecError: the layer is not counted from the end, or the encoder has fewer blocks.
    """
    if not -total <= entry.layer <= -1:
        raise SpecError(
            f"vision {entry.short}: no layer {entry.layer}; its {total} blocks are -1 (the last) to {-total}"
        )
    return total + 1 + entry.layer
