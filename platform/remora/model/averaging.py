"""Weighted averages of models of the same shape, as Bunny averages two recipes' models (0.3 and 0.7).

Source: Bunny's tutorials for Bunny-v1.0-4B and its successors, which merge each recipe's LoRA into the model and then
average the two models' weights. The idea is that of model soups (arXiv 2203.05482).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import safe_open
from torch import Tensor

from remora.errors import SpecError


def average(tensors: Sequence[Tensor], weights: Sequence[float], name: str = "tensor") -> Tensor:
    """sum_i weights[i] * tensors[i], added in fp32 (float64 for float64) and rounded once to the tensors' dtype.

    Integers and booleans are counters and positions, not weights: they must be equal, and are kept.

    Raises:
        SpecError: shapes, dtypes or integers differ; the message names `name`.
    """
    first = tensors[0]
    for what, values in (("shape", [tuple(t.shape) for t in tensors]), ("dtype", [t.dtype for t in tensors])):
        if len(set(values)) > 1:
            raise _refusal(f"{name} has {what} " + " and ".join(str(v) for v in values))
    if not first.is_floating_point():
        if not all(torch.equal(first, t) for t in tensors):
            raise _refusal(f"{name} has {first.dtype} values that differ, and whole numbers cannot be averaged")
        return first.clone()
    total = torch.zeros_like(first, dtype=torch.promote_types(first.dtype, torch.float32))
    for weight, tensor in zip(weights, tensors, strict=True):
        total += weight * tensor.to(total.dtype)
    return total.to(first.dtype)


def average_states(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The average of state dicts with equal names, shapes and dtypes; see `average`.

    Raises:
        SpecError: they differ, or the weights are invalid.
    """
    check_weights(weights, len(states))
    _check_names([set(s) for s in states])
    return {name: average([s[name] for s in states], weights, name) for name in states[0]}


def average_folders(folders: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """Write the average of part folders to the new folder `out`, one tensor in memory at a time.

    `out` gets every file of the first folder: safetensors files with the same names, shapes and order but averaged
    values; other files (config, tokenizer) are copied. The other folders may be sharded differently. An error may leave
    `out` unfinished, so use a `remora.files.publishing` folder.

    Raises:
        SpecError: a folder has no safetensors, names, shapes or dtypes differ, or the weights are invalid.
    """
    check_weights(weights, len(folders))
    where = [_files_by_name(folder) for folder in folders]
    _check_names([set(names) for names in where])
    out.mkdir(parents=True)
    shutil.copytree(folders[0], out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    for file in sorted(folders[0].glob("*.safetensors")):
        raw, entries = _header(file)
        with (out / file.name).open("wb") as target:
            target.write(raw)
            # The header is the first file's, so tensors must be written in the order of its offsets.
            for name in sorted(entries, key=lambda n: entries[n]["data_offsets"]):
                tensor = average([_read(names[name], name) for names in where], weights, name)
                target.write(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())


def _refusal(problem: str) -> SpecError:
    return SpecError(f"only results of the same parts can be averaged: {problem}")


def check_weights(weights: Sequence[float], count: int) -> None:
    """Raises:
    SpecError: `weights` are not `count` numbers of 0 or more that sum to 1.
    """
    # not(...): a comparison with NaN is never true
    if not (len(weights) == count and all(w >= 0 for w in weights) and abs(sum(weights) - 1) <= 1e-6):
        shown = " + ".join(f"{w:g}" for w in weights)
        raise SpecError(
            f"an average of {count} results needs {count} weights of 0 or more that sum to 1, not {shown} = "
            f"{sum(weights):g}; Bunny's are 0.3 and 0.7"
        )


def _check_names(names: Sequence[set[str]]) -> None:
    common = names[0].intersection(*names)
    if odd := sorted(names[0].union(*names) - common):
        raise _refusal(f"{len(odd)} names are not in all of them, the first {odd[0]!r}")
    if lora := sorted(n for n in common if "lora_" in n):
        # (a + b)(c + d) != ac + bd
        raise _refusal(f"{lora[0]!r} is half of a LoRA product, whose average is another; merge the adapters first")


class TensorEntry(TypedDict):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]
    """Where its bytes begin and end, after the header."""


def _header(file: Path) -> tuple[bytes, dict[str, TensorEntry]]:
    """The header of a safetensors file as bytes (8 bytes of length, then JSON), and its entry for each tensor."""
    with file.open("rb") as f:
        length = f.read(8)
        text = f.read(int.from_bytes(length, "little"))
    return length + text, {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}


def _files_by_name(folder: Path) -> dict[str, Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise _refusal(f"{folder} has no *.safetensors")
    return {name: file for file in files for name in _header(file)[1]}


def _read(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as f:
        return f.get_tensor(name)
