"""Vision encoders: pixels in, a sequence of tokens out.

tower.py               the base class of encoders
transformers_tower.py  CLIP, SigLIP, DINOv2, ViT: everything that transformers' AutoModel supports
eva_clip.py            EVA02-CLIP, which transformers does not support
efficientnet.py        the demo's small encoder
scales.py              S2: an encoder at several picture sizes
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
    """Build the encoder of a catalog entry, in eval mode; with `pretrained=False` its weights are to be loaded later.

    The weights have `dtype`, whatever their files have. Under `torch.device("meta")` and not pretrained it takes no
    memory, so that sizes can be counted.

    Raises:
        SpecError: the entry does not describe an encoder.
        DataError: its files are not available, or do not contain it.
    """
    tower = LOADERS[entry.loader](entry, pretrained)
    if entry.scales:
        tower = MultiScale(tower, entry.scales)
    return tower.to(dtype).eval()
