"""A dual encoder (CLIP or SigLIP) that embeds pictures and texts as unit vectors in one space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from remora.errors import DataError
from remora.model.vision.transformers_tower import UNREADABLE, quiet

KINDS = ("clip", "siglip")
"""model_type of transformers' dual encoders; SigLIP 2 with a fixed picture size is a `siglip`."""


class Embedder:
    """A dual encoder from a local folder in transformers' layout, in fp32 and eval mode.

    Texts are truncated and padded to the model's length, so an embedding does not depend on the rest of its batch.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Raises:
        DataError: the folder has no dual encoder, not all of its weights, or no tokenizer.
        """
        with quiet():
            try:
                config = AutoConfig.from_pretrained(folder, local_files_only=True)
                if config.model_type not in KINDS:
                    raise DataError(
                        f"{folder}: model_type {config.model_type!r} has no text encoder; give a {' or '.join(KINDS)}"
                    )
                self.model, found = AutoModel.from_pretrained(
                    folder, config=config, dtype=torch.float32, output_loading_info=True, local_files_only=True
                )
                self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            except UNREADABLE as e:
                raise DataError(f"{folder}: unreadable encoder: {' '.join(str(e).split())[:300]}") from e
        if missing := sorted(found["missing_keys"]):
            raise DataError(f"{folder} lacks {len(missing)} weights ({', '.join(missing[:3])}, …); download it again")
        self.model.eval().to(device)
        self.length = int(config.text_config.max_position_embeddings)
        """Maximum tokens of a text."""
        kind = config.model_type
        self.width = int(config.projection_dim if kind == "clip" else config.vision_config.hidden_size)
        """Dimensions of an embedding."""

    @torch.inference_mode()
    def images(self, pixels: Tensor) -> np.ndarray:
        """Pixels [B, 3, S, S] -> unit vectors float32 [B, width]."""
        other = pixels.shape[-1] != self.model.config.vision_config.image_size  # needs interpolated positions
        found = self.model.get_image_features(pixel_values=pixels.to(self.model.device), interpolate_pos_encoding=other)
        return _unit(found.pooler_output)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """B texts -> unit vectors float32 [B, width]."""
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).to(self.model.device)
        # SigLIP was trained without a mask: its padding is part of the text.
        mask = {"attention_mask": tokens["attention_mask"]} if self.model.config.model_type == "clip" else {}
        return _unit(self.model.get_text_features(input_ids=tokens["input_ids"], **mask).pooler_output)


def _unit(features: Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
