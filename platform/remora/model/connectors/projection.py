"""Connectors that process one token, or one square of tokens, at a time: mlp and pixel shuffle."""

from __future__ import annotations

from torch import Tensor, nn

from remora.catalog.compatibility import grid_side


def mlp(width: int, hidden: int, depth: int) -> nn.Sequential:
    """`depth` linear layers with GELU between them; M = N.

    Source: LLaVA (arXiv 2304.08485, section 4.1) for depth 1, LLaVA-1.5 (arXiv 2310.03744, section 3.2) for depth 2.
    Initialisation: torch's default, as LLaVA's.
    Names: `0.`, `2.`, `4.` ... as after LLaVA's `mm_projector.` and TinyLLaVA Factory's `connector._connector.`. Their
    `linear` (depth 1) has no `0.`; llava-hf says `linear_1.` and `linear_2.` for `0.` and `2.`.
    """
    layers: list[nn.Module] = [nn.Linear(width, hidden)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(hidden, hidden)]
    return nn.Sequential(*layers)


class PixelShuffle(nn.Module):
    """Every square of `factor` x `factor` tokens becomes one of factor^2 * width channels, then a linear layer without
    bias; M = N / factor^2.

    The channels of a square are ordered row by row, token by token, as in nanoVLM and transformers' Idefics3 and
    SmolVLM.

    Source: nanoVLM (models/modality_projector.py); the operation is the inverse of that in arXiv 1609.05158.
    Initialisation: normal(0, 0.02), as nanoVLM's.
    Names: nanoVLM `MP.proj.weight`, Idefics3 `connector.modality_projection.proj.weight` -> `project.weight`.
    """

    def __init__(self, width: int, hidden: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.project = nn.Linear(factor**2 * width, hidden, bias=False)
        nn.init.normal_(self.project.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        side = grid_side(tokens.shape[1]) // self.factor
        squares = tokens.unflatten(1, (side, self.factor, side, self.factor)).transpose(2, 3)
        return self.project(squares.flatten(3).flatten(1, 2))
