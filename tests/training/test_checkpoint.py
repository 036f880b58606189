"""Checkpoints are restored as saved; a damaged one is refused by name and the one before it is used."""

from __future__ import annotations

import json
import logging
import os
import threading

import pytest
import torch
from safetensors import SafetensorError

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


# Written while training continues.


class Slow:
    """Blocks the writing of a file until it is released."""

    def __init__(self, monkeypatch):
        self.begun, self.go = threading.Event(), threading.Event()
        real = checkpoint.save_file

        def slow(tensors, file):
            self.begun.set()
            assert self.go.wait(60)
            real(tensors, file)

        monkeypatch.setattr(checkpoint, "save_file", slow)


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((4,), value)}


def test_a_step_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    slow, told = Slow(monkeypatch), []
    writer = checkpoint.Writer(tmp_path, 2, lambda *said: told.append(said))
    writer.save(10, tensors(1), tensors(2), {"recent": [0.5]})
    assert slow.begun.wait(60) and checkpoint.latest(tmp_path) is None and not told
    slow.go.set()
    writer.wait()
    found = checkpoint.latest(tmp_path)
    assert (found.step, found.state) == (10, {"recent": [0.5]}) and found.moments()["w"][0] == 2
    ((step, seconds, error),) = told
    assert step == 10 and seconds > 0 and error is None


def test_one_is_written_at_a_time_and_in_order(tmp_path, monkeypatch):
    slow = Slow(monkeypatch)
    writer = checkpoint.Writer(tmp_path, 2, lambda *said: None)
    writer.save(10, tensors(1), tensors(1), {})
    second = threading.Thread(target=writer.save, args=(20, tensors(2), tensors(2), {}))
    second.start()
    second.join(0.2)
    assert second.is_alive()  # it would hold a third copy of everything in memory
    slow.go.set()
    second.join(60)
    writer.wait()
    assert names(tmp_path) == ["step-000010", "step-000020"]


def test_a_full_disk_costs_a_checkpoint_and_no_step(root, monkeypatch, caplog):
    told = []
    writer = checkpoint.Writer(root, 2, lambda *said: told.append(said))
    real = checkpoint.save_file
    for full in (OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")):

        def fails(tensors, file, full=full):
            raise full

        monkeypatch.setattr(checkpoint, "save_file", fails)
        writer.save(150, tensors(1), tensors(1), {})
        writer.wait()
        assert names(root) == ["step-000050", "step-000100"]
    assert all("disk is full" in e or "No space left" in e for _, _, e in told) and len(told) == 2
    assert "the checkpoint of step 150 is not written, those before it stay" in caplog.text
    monkeypatch.setattr(checkpoint, "save_file", real)
    writer.save(200, tensors(1), tensors(1), {})
    writer.wait()
    assert names(root) == ["step-000100", "step-000200"]


def test_a_fault_of_ours_is_raised_where_the_steps_are(tmp_path):
    writer = checkpoint.Writer(tmp_path, 2, lambda *said: None)
    writer.save(10, {"w": "no tensor"}, {}, {})
    with pytest.raises((TypeError, ValueError, AttributeError)):
        writer.wait()


def test_what_a_killed_process_was_writing_is_cleared_away(root):
    (root / ".step-000150.0123abcd").mkdir()
    checkpoint.Writer(root, 2, lambda *said: None)
    assert names(root) == ["step-000050", "step-000100"]
