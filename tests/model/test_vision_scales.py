"""S2 against a slow reference: each tile of each scale separately, explicit averages, bicubic from its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from remora.errors import SpecError
from remora.model.vision import Tower, Unread, build_tower
from remora.model.vision.scales import MultiScale
from support.encoders import entry, pixels


class Squares(Tower):
    """Pixels [B, 3, 8, 8] -> 2 x 2 tokens of 5 channels; not linear, and each token sees its whole tile."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 5, 4, 4)])
        self.tail = []

    def forward(self, pixels):
        assert pixels.shape[2:] == (8, 8)
        seen = torch.tanh(self.blocks[0](pixels)) + pixels.square().mean((1, 2, 3), keepdim=True)
        return seen.flatten(2).transpose(1, 2)


def cubic(x: float, a: float = -0.75) -> float:
    """Keys' kernel (1981) with the parameter that torch has."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """picture [3, H, H] -> [3, size, size]: four neighbours along each side, edges repeated, no antialiasing."""
    old = picture.shape[1]
    taps = np.zeros((size, old))
    for i in range(size):
        centre = (i + 0.5) * old / size - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            taps[i, min(max(j, 0), old - 1)] += cubic(centre - j)
    return taps @ picture @ taps.T


def slow(tower: Tower, picture: np.ndarray, scales: list[int], side: int) -> np.ndarray:
    """Tokens [side * side, channels] of one picture [3, H, H], tile by tile."""
    columns = []
    for scale in scales:
        n = scale // scales[0]
        here = picture if picture.shape[1] == scale else resized(picture, scale)
        rows: list[list[np.ndarray]] = [[] for _ in range(n * side)]
        for r in range(n):
            for c in range(n):
                tile = here[:, r * scales[0] : (r + 1) * scales[0], c * scales[0] : (c + 1) * scales[0]]
                tokens = tower(torch.from_numpy(tile.copy())[None])[0].numpy()
                for t, token in enumerate(tokens):
                    rows[r * side + t // side].append(token)
        averages = []
        for r in range(side):
            for c in range(side):
                window = [rows[r * n + y][c * n + x] for y in range(n) for x in range(n)]
                averages.append(sum(window) / len(window))
        columns.append(np.stack(averages))
    return np.concatenate(columns, axis=1)


@pytest.mark.parametrize("scales", [(8,), (8, 16), (8, 24), (24, 8, 16)])
@torch.no_grad()
def test_tokens_are_those_of_tiles_read_one_by_one(scales):
    torch.manual_seed(0)
    tower = Squares().double()
    pictures = pixels(max(scales), 3).double()
    tokens = MultiScale(tower, scales)(pictures)
    assert tokens.shape == (3, 4, 5 * len(scales))
    for picture, said in zip(pictures, tokens, strict=True):
        # The averages and resized pixels are worked out in fp32, as published: 1e-7 of numbers below 10.
        assert np.abs(slow(tower, picture.numpy(), sorted(scales), 2) - said.numpy()).max() < 1e-5


@torch.no_grad()
def test_an_encoder_of_the_catalog_at_two_scales():
    encoder = entry("siglip_vision_model", image_size=30, scales=(30, 60), width=32, layer=-2)
    torch.manual_seed(0)
    tower = build_tower(encoder, pretrained=False)
    picture = pixels(60, 1)
    tokens = tower(picture)
    assert tokens.shape == (1, encoder.tokens, encoder.width)
    expected = slow(tower.tower.double(), picture[0].double().numpy(), [30, 60], 3)
    # fp32 against doubles through three blocks
    assert np.abs(expected - tokens[0].numpy()).max() < 1e-4


@torch.no_grad()
def test_pixels_may_come_at_another_size():
    """The blank picture of a batch without pictures has the encoder's own size."""
    tower = MultiScale(Squares(), (8, 16))
    assert tower(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 10)


def test_half_precision_stays_half():
    tower = MultiScale(Squares(), (8, 16)).to(torch.bfloat16)
    assert tower(pixels(16).bfloat16()).dtype == torch.bfloat16


def test_blocks_are_the_encoders_and_saved_once():
    encoder = entry("clip_vision_model", scales=(30, 60), width=32, layer=-2)
    tower = build_tower(encoder, pretrained=False)
    assert [isinstance(b, Unread) for b in tower.blocks] == [False, False, False, True]
    inner = build_tower(encoder.model_copy(update={"scales": ()}), pretrained=False)
    assert {f"tower.{n}" for n in inner.state_dict()} == tower.state_dict().keys()
    assert not any(m.training for m in tower.train().modules())


def test_gradients_come_from_every_scale():
    """One step of the smaller scale's gradient and one of the larger's are the step of both."""
    torch.manual_seed(0)
    tower = MultiScale(Squares(), (8, 16)).double()
    weight = tower.blocks[0].weight

    def gradient(channels: slice) -> torch.Tensor:
        return torch.autograd.grad(tower(pixels(16).double())[..., channels].square().sum(), weight)[0]

    small, large = gradient(slice(0, 5)), gradient(slice(5, 10))
    assert small.abs().max() > 0 and large.abs().max() > 0
    assert torch.allclose(gradient(slice(0, 10)), small + large, rtol=1e-12)


def test_scales_that_cannot_be_tiled():
    with pytest.raises(SpecError, match=r"scales \[8, 12\]: 12 is not a multiple of 8"):
        MultiScale(Squares(), (8, 12))
