"""Vision encoders: pixels in, a sequence of tokens out.

tower.py               what every encoder is
transformers_tower.py  CLIP, SigLIP, DINOv2, ViT: whatever transformers' AutoModel knows
eva_clip.py            EVA02-CLIP, which transformers does not know
efficientnet.py        the demo's small encoder
scales.py              S2: one of them at several sizes of the picture
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from remora.catalog import Vision
from remora.model.vision.efficientnet import efficientnet_lite
from remora.model.vision.eva_clip import eva_clip
from remora.model.vision.scales import MultiScale
from remora.model.vision.tower import Tower, Unread
from remora.model.vision.transformers_tower import transformers_tower

__all__ = ["Tower", "Unread", "build_tower"]

LOADERS: dict[str, Callable[[Vision, bool], Tower]] = {
    "transformers": transformers_tower,
    "eva-clip": eva_clip,
    "efficientnet-lite": efficientnet_lite,
}


def build_tower(entry: Vision, pretrained: bool = True, dtype: torch.dtype = torch.float32) -> Tower:
    """The encoder of a catalog entry in eval mode; `pretrained=False` leaves its weights to be loaded.

    The weights have `dtype`, whatever their files have. Under `torch.device("meta")` and not pretrained it takes no
    memory, so that sizes can be counted.

    Raises:
        SpecError: the entry describes no encoder.
        DataError: its files cannot be had, or do not hold it.
    """
    tower = LOADERS[entry.loader](entry, pretrained)
    if entry.scales:
        tower = MultiScale(tower, entry.scales)
    return tower.to(dtype).eval()
