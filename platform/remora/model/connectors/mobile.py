"""MobileVLM's connectors, which reduce four tokens to one by depthwise convolution (ldp) or averaging (ldpv2).

Inside, tokens are a picture [B, hidden, side, side]: N = side^2 tokens, row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from remora.catalog.compatibility import grid_side
from remora.model.connectors.projection import mlp


def as_picture(tokens: Tensor) -> Tensor:
    """[B, side^2, C] -> [B, C, side, side]."""
    side = grid_side(tokens.shape[1])
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def as_tokens(picture: Tensor) -> Tensor:
    """[B, C, side, side] -> [B, side^2, C]."""
    return picture.flatten(2).transpose(1, 2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W]."""

    def forward(self, picture: Tensor) -> Tensor:
        return super().forward(picture.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SqueezeExcite(nn.Module):
    """Scales every channel by a factor in [0, 1], computed from the picture's channel means.

    Source: arXiv 1709.01507, with the hard sigmoid of MobileNetV3 (arXiv 1905.02244, section 5.3). The inner width is a
    quarter of the channels, rounded to a multiple of 8, never down by more than a tenth, as in torchvision.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter = channels // 4
        inner = max(8, (quarter + 4) // 8 * 8)
        inner += 8 if inner < 0.9 * quarter else 0
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.fc2 = nn.Conv2d(inner, channels, 1)

    def forward(self, picture: Tensor) -> Tensor:
        mean = picture.mean(dim=(2, 3), keepdim=True)
        return picture * F.hardsigmoid(self.fc2(F.relu(self.fc1(mean))))


class DepthwiseBlock(nn.Module):
    """MobileNetV3's block without expansion: depthwise 3x3, squeeze and excite, 1x1. Residual if stride is 1."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
        self.norm_depthwise = ChannelNorm(channels)
        self.squeeze_excite = SqueezeExcite(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm_pointwise = ChannelNorm(channels)

    def forward(self, picture: Tensor) -> Tensor:
        out = self.squeeze_excite(F.hardswish(self.norm_depthwise(self.depthwise(picture))))
        out = self.norm_pointwise(self.pointwise(out))
        return out + picture if self.residual else out


class LDP(nn.Module):
    """A two-layer MLP, then a depthwise block and one of stride 2; M = N / 4.

    Source: MobileVLM (arXiv 2312.16886, section 3.4) and its repository (mobilevlm/model/vision_projector.py,
    LDPNetProjector). The paper's formula has neither the activation nor the squeeze and excite of its repository's
    blocks; published weights have them, and so do these.
    Initialisation: torch's default, as MobileVLM's.
    Names: `mm_projector.model.` `mlp.1`, `mlp.3` -> `mlp.0`, `mlp.2`; `mb_block.1`, `mb_block.2` -> `blocks.0`,
    `blocks.1`, and in these `block.0.0`, `block.0.1`, `block.1`, `block.2.0`, `block.2.1` -> `depthwise`,
    `norm_depthwise`, `squeeze_excite`, `pointwise`, `norm_pointwise`.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.mlp = mlp(width, hidden, depth=2)
        self.blocks = nn.Sequential(DepthwiseBlock(hidden, stride=1), DepthwiseBlock(hidden, stride=2))

    def forward(self, tokens: Tensor) -> Tensor:
        return as_tokens(self.blocks(as_picture(self.mlp(tokens))))


class LDPv2(nn.Module):
    """A two-layer MLP, an average over `grid` x `grid` windows, and a residual depthwise 3x3 convolution that encodes
    positions; M = grid^2.

    Source: MobileVLM V2 (arXiv 2402.03766, section 3.3) and its repository (mobilevlm/model/vision_projector.py,
    LDPNetV2Projector). The paper averages 2x2 tokens, the repository to 12x12 windows for any input; for its 24x24
    tokens both are the same, for other grids this follows the repository.
    Initialisation: torch's default, as MobileVLM's.
    Names: `mm_projector.` `mlp.mlp` -> `mlp`, `peg.peg.0` -> `place`.
    """

    def __init__(self, width: int, hidden: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.mlp = mlp(width, hidden, depth=2)
        self.place = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        pooled = window_means(as_picture(self.mlp(tokens)), self.grid)
        return as_tokens(pooled + self.place(pooled))


def window_means(picture: Tensor, grid: int) -> Tensor:
    """[B, C, side, side] -> the means of grid x grid windows, [B, C, grid, grid].

    Window i covers rows floor(i * side / grid) to ceil((i + 1) * side / grid) - 1, and columns likewise, as in torch's
    adaptive_avg_pool2d. On CUDA the gradient of that is not deterministic; two matrix products are. Their weights are 0
    and 1, exact in any precision, with one division at the end.
    """
    side = picture.shape[-1]
    window = torch.arange(grid, device=picture.device)[:, None]
    place = torch.arange(side, device=picture.device)
    inside = (place >= window * side // grid) & (place < -(-(window + 1) * side // grid))
    lengths = inside.sum(dim=1).to(picture.dtype)  # tokens of a window's side, [grid]
    inside = inside.to(picture.dtype)  # [grid, side]
    return inside @ picture @ inside.T / (lengths[:, None] * lengths)
