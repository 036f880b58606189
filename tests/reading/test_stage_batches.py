"""A step's loss, gradients and samples are the same in packed and padded rows, with any pictures."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from remora import catalog
from remora.data.mixture import read_mixture
from remora.model.patches.attention import attend_per_sample
from remora.reading.batches import StageData
from remora.reading.prompt import Prompter
from remora.spec import Stage
from remora.token_ids import IGNORE, IMAGE

pytestmark = pytest.mark.slow
SHARES = [(1, 1), (1, 3), (1, 99), (2, 1), (2, 2), (5, 1), (24, 1)]
"""(ranks, micro batch); 24 ranks are more than there are samples."""


@pytest.fixture
def stage_data(tmp_path, tiny_tokenizer):
    """Twelve samples of unlike lengths in one step: with pictures (one, two or none each), or text only."""

    def make(kind: str) -> StageData:
        records = []
        for i in range(12):
            shown = {"text": 0, "pictures": 1 + i % 2, "mixed": i % 3}[kind]
            question = "<image>\n" * shown + f"What is {i}?"
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"{i} " * (1 + 5 * i % 7)}]
            images = [f"{i}-{n}.png" for n in range(shown)]
            for n, name in enumerate(images):
                Image.new("RGB", (8, 8), (20 * i, 99 * n, 9)).save(tmp_path / name)
            records.append({"id": str(i), "conversations": turns} | ({"image": images} if images else {}))
        (tmp_path / f"{kind}.json").write_text(json.dumps(records))
        stage = {"name": "s", "mixture": [{"path": str(tmp_path / f"{kind}.json")}], "template": "brief"}
        stage |= {"batch": 12, "epochs": 1, "lr": 1e-3, "max_length": 64}
        prompter = Prompter(catalog.template("brief"), tiny_tokenizer, 2)
        checked = Stage.model_validate(stage)
        data = StageData(checked, read_mixture(checked.mixture, tmp_path), prompter, None, seed=3)
        data.encoder = catalog.vision("efficientnet-lite0").model_copy(update={"image_size": 4})
        return data

    return make


def step(data: StageData, model, rows: str, world: int, size: int):
    """(loss a supervised token, gradients, (key, ids) of the samples, most tokens that a pass computes)."""
    model.zero_grad(set_to_none=True)
    batches = [b for rank in range(world) for b in data.read(0, rank, world, size, rows).batches]
    tokens = sum(b.supervised for b in batches)
    loss = 0.0
    for batch in batches:
        part = model(batch) / tokens
        part.backward()
        loss += part.item()
    samples = []
    for batch in batches:
        held = (
            batch.ids[0].split(batch.lengths)
            if rows == "packed"
            else [i[m == 1] for i, m in zip(batch.ids, batch.mask, strict=True)]
        )
        samples += [(k, ids.tolist()) for k, ids in zip(batch.keys.tolist(), held, strict=True) if len(ids) > 1]
        assert (batch.ids == IMAGE).sum() == 2 * len(batch.pixels)
        assert batch.mask.sum() == batch.ids.numel() or rows == "padded"
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}  # all exist, also for text only
    return loss, gradients, sorted(samples), max(b.ids.numel() for b in batches)


@pytest.mark.parametrize("kind", ["text", "pictures", "mixed"])
def test_rows_change_neither_loss_nor_gradients_nor_samples(stage_data, tiny_model, kind):
    data = stage_data(kind)
    tiny_model.llm.resize_token_embeddings(len(data.prompter.tokenizer))
    attend_per_sample(tiny_model.llm)
    loss, gradients, samples, _ = step(data, tiny_model, "padded", 1, 12)
    assert len(samples) == 12
    for rows in ("packed", "padded"):
        for world, size in SHARES:
            again, others, same, most = step(data, tiny_model, rows, world, size)
            assert again == pytest.approx(loss, rel=1e-5) and same == samples
            assert most <= size * 64
            for name, gradient in gradients.items():
                largest = float(gradient.abs().max())
                assert torch.allclose(others[name], gradient, atol=1e-5 * largest + 1e-9), (rows, world, size, name)


def test_each_sample_is_named_by_its_own_pictures_and_keys(stage_data):
    data = stage_data("mixed")
    keys = {}
    for rows in ("packed", "padded"):
        for batch in data.read(0, 0, 1, 1, rows).batches:
            at = 0
            held = batch.ids[0].split(batch.lengths) if rows == "packed" else batch.ids
            for key, ids in zip(batch.keys.tolist(), held, strict=True):
                count = int((ids == IMAGE).sum()) // 2
                shown = [
                    (k, float(p.sum()))
                    for k, p in zip(batch.image_keys[at : at + count].tolist(), batch.pixels[at:], strict=False)
                ]
                assert keys.setdefault(key, shown) == shown and len(shown) == count
                at += count
            assert at == len(batch.pixels)
    assert len(keys) == 12 and sum(map(len, keys.values())) == 12
    assert len({k for shown in keys.values() for k, _ in shown}) == 12


def test_a_pass_without_a_sample_is_a_token_without_a_label(stage_data):
    data = stage_data("text")
    for rows in ("packed", "padded"):
        batches = [b for rank in range(24) for b in data.read(0, rank, 24, 1, rows).batches]
        empty = [b for b in batches if not b.supervised]
        assert len(empty) >= 12 and all(b.ids.tolist() == [[data.pad]] and len(b.pixels) == 0 for b in empty)
        assert all((b.labels == IGNORE).all() for b in empty)
