"""S2: run an encoder at several picture sizes and concatenate the features of each token.

Source: Shi et al., "When Do We Not Need Larger Vision Models?" (arXiv 2403.13043), and s2wrapper/core.py of
github.com/bfshi/scaling_on_scales, whose choices of interpolation this follows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from remora.errors import SpecError
from remora.model.vision.tower import Tower


class MultiScale(Tower):
    """`tower` at each of `scales` (side in pixels) -> tokens [B, N, len(scales) * width], with N of the smallest scale.

    The input has the largest scale, resized by preprocessing; smaller scales are made from it by bicubic interpolation
    without antialiasing, as published. A larger scale is cut into tiles of the smallest one, the tower's training size;
    the tiles' tokens are joined into one grid and averaged down to N tokens. Gradients flow through every scale.
    """

    def __init__(self, tower: Tower, scales: tuple[int, ...]) -> None:
        """Raises:
        SpecError: a scale is not a multiple of the smallest.
        """
        super().__init__()
        self.tower = tower
        self.scales = tuple(sorted(scales))
        self.base = self.scales[0]
        if odd := [s for s in self.scales if s % self.base]:
            raise SpecError(f"scales {list(scales)}: {odd[0]} is not a multiple of {self.base}, so it cannot be tiled")
        self.tail = tower.tail

    @property
    def blocks(self):  # type: ignore[no-untyped-def,override]  # one registration, or every weight would be saved twice
        return self.tower.blocks

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([self._at(pixels, scale) for scale in self.scales], dim=-1)

    def _at(self, pixels: Tensor, scale: int) -> Tensor:
        """pixels [B, 3, H, H] -> tokens [B, N, width] at `scale`."""
        batch, n = len(pixels), scale // self.base
        if pixels.shape[-1] != scale:
            pixels = F.interpolate(pixels.float(), size=(scale, scale), mode="bicubic").to(pixels.dtype)
        if n == 1:
            return self.tower(pixels)
        tiles = pixels.unflatten(3, (n, -1)).unflatten(2, (n, -1))  # [B, 3, n, base, n, base]
        tokens = self.tower(tiles.permute(2, 4, 0, 1, 3, 5).flatten(0, 2))  # [n*n*B, N, width], tile by tile
        side = round(tokens.shape[1] ** 0.5)
        grids = tokens.view(n, n, batch, side, side, -1)
        whole = grids.permute(2, 5, 0, 3, 1, 4).reshape(batch, -1, n * side, n * side)
        return F.avg_pool2d(whole.float(), n).to(tokens.dtype).flatten(2).transpose(1, 2)
