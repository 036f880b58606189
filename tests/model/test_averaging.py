"""Weight averaging: the weighted sum in float64 rounded once, whole files, and every refusal in one line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from remora.errors import SpecError
from remora.model import averaging
from remora.model.averaging import average, average_folders, average_states

WEIGHTS = (0.3, 0.7)


def state(seed, dtype=torch.bfloat16):
    g = torch.Generator().manual_seed(seed)
    sizes = {"b.weight": (5, 3), "a.weight": (64, 64), "scale": (), "empty": (0, 4)}
    return {n: torch.randn(s, generator=g).to(dtype) for n, s in sizes.items()} | {
        "steps": torch.tensor([7, 2**24 + 1])
    }


def expected(states, name, weights=WEIGHTS):
    return sum(w * s[name].double() for w, s in zip(weights, states, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_average_is_the_weighted_sum_rounded_once(dtype):
    states = [state(0, dtype), state(1, dtype)]
    out = average_states(states, WEIGHTS)
    assert list(out) == list(states[0])
    assert torch.equal(out["steps"], torch.tensor([7, 2**24 + 1]))
    for name in ("a.weight", "b.weight", "scale", "empty"):
        assert out[name].dtype == dtype and out[name].shape == states[0][name].shape
        # half a step of the dtype for the one rounding, and two fp32 roundings of products below 4
        error = (out[name].double() - expected(states, name)).abs()
        assert (error <= expected(states, name).abs() * torch.finfo(dtype).eps / 2 + 1e-6).all()


def test_it_is_added_in_fp32_not_in_the_tensors_own_dtype():
    # 128.5 is no bfloat16: summed there, 128 + 0.5 + 0.5 would stay at 128
    tensors = [torch.tensor([x], dtype=torch.bfloat16) for x in (256.0, 2.0, 2.0)]
    assert average(tensors, (0.5, 0.25, 0.25)).item() == 129.0
    # and float64 is not thrown away
    assert average([torch.tensor([1 + 2.0**-40], dtype=torch.float64)] * 2, (0.5, 0.5)).item() == 1 + 2.0**-40


def test_nothing_given_is_changed():
    states = [state(0), state(1)]
    before = [{n: t.clone() for n, t in s.items()} for s in states]
    average_states(states, WEIGHTS)
    assert all(torch.equal(s[n], b[n]) for s, b in zip(states, before, strict=True) for n in s)


def part(folder, tensors, shards=1):
    """A part folder of `shards` files with a config."""
    folder.mkdir(parents=True)
    names = list(tensors)
    for i in range(shards):
        shard = {n: tensors[n] for n in names[i::shards]}
        save_file(shard, folder / f"model-{i}.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"shards": shards}))
    return folder


@pytest.mark.parametrize("shards", [(1, 1), (2, 3)])
def test_folders_average_like_their_states(tmp_path, shards):
    states = [state(0), state(1)]
    folders = [part(tmp_path / str(i), s, n) for i, (s, n) in enumerate(zip(states, shards, strict=True))]
    average_folders(folders, WEIGHTS, tmp_path / "out")
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert files == sorted(p.name for p in folders[0].iterdir())
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"shards": shards[0]}
    out = {n: t for f in (tmp_path / "out").glob("*.safetensors") for n, t in load_file(f).items()}
    wanted = average_states(states, WEIGHTS)
    assert set(out) == set(wanted) and all(torch.equal(out[n], wanted[n]) for n in wanted)
    with safe_open(tmp_path / "out/model-0.safetensors", framework="pt") as f:
        assert f.metadata() == {"format": "pt"}


def test_one_tensor_of_each_folder_is_in_memory_at_a_time(tmp_path, monkeypatch):
    folders = [part(tmp_path / str(i), state(i)) for i in range(2)]
    sizes = []

    def watched(tensors, weights, name):
        sizes.append(sum(t.numel() for t in tensors))
        return average(tensors, weights, name)

    monkeypatch.setattr(averaging, "average", watched)
    average_folders(folders, WEIGHTS, tmp_path / "out")
    assert sorted(sizes) == sorted(2 * t.numel() for t in state(0).values())


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ((0.3, 0.6), r"not 0\.3 \+ 0\.6 = 0\.9"),
        ((0.3,), "needs 2 weights"),
        ((1.5, -0.5), "of 0 or more"),
        ((float("nan"), 1.0), "= nan"),
    ],
)
def test_weights_that_are_no_average_are_refused(tmp_path, weights, why):
    with pytest.raises(SpecError, match=why) as caught:
        average_states([state(0), state(1)], weights)
    assert "\n" not in str(caught.value)
    with pytest.raises(SpecError, match=why):
        average_folders([part(tmp_path / "a", state(0)), part(tmp_path / "b", state(1))], weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_may_be_rounded_decimals():
    average_states([state(0), state(1)], (0.3333333, 0.6666666))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"extra": torch.zeros(1)}, "1 names are not in all of them, the first 'extra'"),
        ({"scale": torch.zeros(2, dtype=torch.bfloat16)}, r"scale has shape \(\) and \(2,\)"),
        ({"scale": torch.zeros(())}, r"scale has dtype torch\.bfloat16 and torch\.float32"),
        ({"steps": torch.tensor([7, 9])}, "steps has torch.int64 values that differ"),
    ],
)
def test_results_that_differ_in_more_than_values_are_refused(tmp_path, change, why):
    with pytest.raises(SpecError, match=why) as caught:
        average_states([state(0), state(1) | change], WEIGHTS)
    assert "\n" not in str(caught.value)
    folders = [part(tmp_path / "a", state(0)), part(tmp_path / "b", state(1) | change)]
    with pytest.raises(SpecError, match=why):
        average_folders(folders, WEIGHTS, tmp_path / "out")


def test_lora_factors_have_no_average():
    factors = {"q.lora_A.weight": torch.zeros(2, 3), "q.lora_B.weight": torch.zeros(3, 2)}
    with pytest.raises(SpecError, match=r"q\.lora_A\.weight.*merge the adapters first"):
        average_states([factors, factors], WEIGHTS)


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(SpecError, match=rf"{tmp_path / 'b'} has no \*\.safetensors"):
        average_folders([part(tmp_path / "a", state(0)), tmp_path / "b"], WEIGHTS, tmp_path / "out")
