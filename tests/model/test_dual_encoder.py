"""The dual encoder's vectors equal those of transformers' classes and have length 1, whatever else is in the batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from remora.errors import DataError
from remora.model.dual_encoder import Embedder
from support.dual_encoders import SIDE, TEXT, WORDS, write_encoder


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_it_is_the_published_model(kind, tmp_path):
    model = write_encoder(tmp_path, kind)
    embedder = Embedder(tmp_path)
    pixels = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    texts = [*WORDS, "long " * 40]
    ids = embedder.tokenizer(texts, padding="max_length", truncation=True, max_length=TEXT["max_position_embeddings"])
    with torch.no_grad():
        masks = {"attention_mask": torch.tensor(ids["attention_mask"])} if kind == "clip" else {}
        out = model(input_ids=torch.tensor(ids["input_ids"]), pixel_values=pixels, **masks)
    assert np.allclose(embedder.images(pixels), out.image_embeds.numpy(), atol=1e-6)
    assert np.allclose(embedder.texts(texts), out.text_embeds.numpy(), atol=1e-6)
    assert np.allclose(np.linalg.norm(embedder.texts(texts), axis=1), 1, atol=1e-6)
    assert embedder.width == out.image_embeds.shape[1] == out.text_embeds.shape[1]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_an_embedding_has_no_batch_mates(kind, tmp_path):
    write_encoder(tmp_path, kind)
    embedder = Embedder(tmp_path)
    together = embedder.texts([*WORDS, "x"])
    assert np.allclose(together, np.concatenate([embedder.texts([t]) for t in [*WORDS, "x"]]), atol=1e-5)
    assert abs(together @ together.T - np.eye(4)).max() > 0.01 and np.linalg.matrix_rank(together, tol=1e-3) == 4


def test_what_is_no_dual_encoder_is_refused(tmp_path):
    model = write_encoder(tmp_path / "clip")
    model.vision_model.config.save_pretrained(tmp_path / "vision")
    with pytest.raises(DataError, match="model_type 'clip_vision_model' has no text encoder"):
        Embedder(tmp_path / "vision")
    with pytest.raises(DataError, match="unreadable encoder"):
        Embedder(tmp_path)
    weights = tmp_path / "clip" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(DataError, match="unreadable encoder"):
        Embedder(tmp_path / "clip")


def test_missing_weights_are_refused(tmp_path):
    model = write_encoder(tmp_path)
    model.save_pretrained(
        tmp_path, state_dict={k: v for k, v in model.state_dict().items() if k != "text_projection.weight"}
    )
    with pytest.raises(DataError, match=r"lacks 1 weights \(text_projection.weight"):
        Embedder(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "clip"
