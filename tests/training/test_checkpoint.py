"""Checkpoints: what was saved comes back; a damaged one is refused by name and the one before it is used."""

from __future__ import annotations

import json
import logging
import os

import pytest
import torch

from remora.errors import StoreError
from remora.training import checkpoint


def save(root, step: int, keep: int = 2):
    trained = {"llm.weight": torch.full((4, 4), float(step)), "llm.bias": torch.zeros(3)}
    moments = {f"{m}.llm.weight": torch.full((4, 4), step / 10) for m in ("exp_avg", "exp_avg_sq")}
    return checkpoint.save(root, step, trained, moments, keep)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "checkpoints"
    for step in (50, 100):
        save(root, step)
    return root


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_was_saved_comes_back(root):
    found = checkpoint.latest(root)
    assert (found.step, found.folder) == (100, root / "step-000100")
    assert torch.equal(found.trained()["llm.weight"], torch.full((4, 4), 100.0))
    assert torch.equal(found.trained()["llm.bias"], torch.zeros(3))
    assert torch.equal(found.moments()["exp_avg_sq.llm.weight"], torch.full((4, 4), 10.0))


def test_there_may_be_none_yet(tmp_path):
    assert checkpoint.latest(tmp_path / "nothing") is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(keep, tmp_path):
    for step in range(10, 60, 10):
        save(tmp_path, step, keep)
    assert names(tmp_path) == [f"step-{step:06d}" for step in (10, 20, 30, 40, 50)[-keep:]]


def bit_flip(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "missing": lambda folder: (folder / "moments.safetensors").unlink(),
    "truncated": lambda folder: os.truncate(folder / "trained.safetensors", 60),
    "empty": lambda folder: os.truncate(folder / "state.json", 0),
    "a bit flipped": lambda folder: bit_flip(folder / "trained.safetensors"),
    "another step": lambda folder: (folder / "state.json").write_text(json.dumps({"step": 9})),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: os.truncate(folder / "manifest.json", 40),
    "a manifest of nothing": lambda folder: (folder / "manifest.json").write_text('{"files": null}'),
    "a file too many": lambda folder: (folder / "extra").write_text("x"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_one_is_named_and_the_one_before_it_used(damage, root, caplog):
    damage(root / "step-000100")
    with caplog.at_level(logging.WARNING):
        found = checkpoint.latest(root)
    assert found.step == 50 and torch.equal(found.trained()["llm.weight"], torch.full((4, 4), 50.0))
    (record,) = caplog.records
    assert "refused" in record.getMessage() and str(root / "step-000100") in record.getMessage()
    save(root, 100)  # training comes by again and replaces it
    assert checkpoint.latest(root).step == 100


def test_if_all_are_damaged_training_starts_anew(root):
    for folder in root.iterdir():
        bit_flip(folder / "trained.safetensors")
    assert checkpoint.latest(root) is None


@pytest.mark.parametrize(
    ("problem", "raised"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), StoreError)],
)
def test_a_save_that_fails_leaves_nothing_behind(problem, raised, root, monkeypatch):
    before = names(root)
    real = checkpoint.save_file

    def fails(tensors, file):
        if file.name == "moments.safetensors":
            file.write_bytes(b"half")
            raise problem
        real(tensors, file)

    monkeypatch.setattr(checkpoint, "save_file", fails)
    with pytest.raises(raised):
        save(root, 150)
    assert names(root) == before
    assert checkpoint.latest(root).step == 100


def test_what_a_killed_save_left_is_passed_over(root):
    half = checkpoint.publishing(root / "step-000150")
    (half.__enter__() / "trained.safetensors").write_bytes(b"half")
    assert checkpoint.latest(root).step == 100
    save(root, 200)
    assert [name for name in names(root) if not name.startswith(".")] == ["step-000100", "step-000200"]


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (999_999, 1_000_000):
        save(tmp_path, step)
    assert checkpoint.latest(tmp_path).step == 1_000_000
    save(tmp_path, 1_000_001, keep=1)
    assert names(tmp_path) == ["step-1000001"]
