"""EfficientNet-Lite0: a picture's features do not depend on its batch."""

from __future__ import annotations

import pytest
import torch

from remora import catalog
from remora.model.vision import build_tower
from remora.model.vision.efficientnet import Pointwise


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_the_kernel_does_not_depend_on_the_number_of_pictures(threads: int) -> None:
    """On one thread torch's own 1 x 1 convolutions change from 15 pictures to 16, and the features by 3e-6."""
    tower = build_tower(catalog.vision("efficientnet-lite0"))
    pixels = torch.randn(40, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            alone = torch.cat([tower(picture[None]) for picture in pixels])
            together = {n: torch.cat([tower(some) for some in pixels.split(n)]) for n in (2, 7, 15, 16, 17, 40)}
    finally:
        torch.set_num_threads(before)
    for n, features in together.items():
        apart = (features - alone).abs().max() / alone.abs().max()
        assert apart < 3e-7, f"{n} pictures at once"  # another kernel would be ten times as far


def test_features_are_those_of_float64() -> None:
    tower = build_tower(catalog.vision("efficientnet-lite0"))
    pixels = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        single, double = tower(pixels), tower.double()(pixels.double())
    assert (single - double).abs().max() < 1e-5 * double.abs().max()


def test_gradients_are_those_of_float64() -> None:
    """A layer's, since the whole tower's gradients jump where a rounding crosses an edge of a ReLU6."""
    tower = build_tower(catalog.vision("efficientnet-lite0"))
    layer = next(m for m in tower.modules() if isinstance(m, Pointwise))
    pixels = torch.randn(20, layer.in_channels, 6, 6, generator=torch.Generator().manual_seed(0))

    def gradients(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        input = pixels.detach().to(dtype).requires_grad_()
        return torch.autograd.grad(layer.to(dtype)(input).square().sum(), [input, layer.weight])

    for single, double in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5 * float(double.abs().max()))
