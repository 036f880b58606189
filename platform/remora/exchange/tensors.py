"""The tensors of a published checkpoint: safetensors or torch files, in one file or in shards. No code is executed.

Nothing that a file says is believed before it is checked: shards are files of the folder itself, an index and its
shards name the same tensors, and no tensor is larger than the bytes that it is stored in. So reading takes no more
memory than the files have bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from remora.errors import DataError, first_line

SINGLE = ("model.safetensors", "pytorch_model.bin")
SHARD = re.compile(r"(?P<stem>model|pytorch_model)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<suffix>safetensors|bin)")
HOLDERS = ("state_dict", "model_state_dict", "module", "model")
"""Keys below which training scripts put the tensors of a torch file."""
LARGEST_JSON = 64 << 20
"""Bytes of a config or an index; Llama-3-405B's index has 0.1 MB."""
WRAPPERS = (
    (re.compile(r"^(?:module\.|_orig_mod\.)+"), ""),  # DistributedDataParallel and DeepSpeed; torch.compile
    (re.compile(r"^base_model\.model\."), ""),  # peft
    (re.compile(r"\.base_layer\."), "."),
    (re.compile(r"\.modules_to_save\.(?:default\.)?"), "."),
    (re.compile(r"\.(lora_[AB])\.default\."), r".\1."),
)
"""What wraps a module while it is trained, and how it shows in a tensor's name."""


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        DataError: there is none, or it is too large to be one.
    """
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise DataError(f"{file} has {file.stat().st_size:,} bytes, too many for what it is; download it again")
        said = json.loads(file.read_bytes())
    except OSError as e:
        raise DataError(f"{file}: not readable: {e.strerror or e}; download it again") from None
    except (ValueError, RecursionError) as e:
        raise DataError(f"{file} is no JSON: {first_line(e)}; download it again") from None
    if not isinstance(said, dict):
        raise DataError(f"{file} holds no object; download it again")
    return said


def has_tensors(folder: Path) -> bool:
    """Whether there are weights under a name that `read_tensors` knows."""
    names = [*SINGLE, *(f"{name}.index.json" for name in SINGLE)]
    return any((folder / name).exists() for name in names) or bool(_loose_shards(folder))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor by its published name, mapped from disk where the format allows. Wrappers are taken off the names.

    Raises:
        DataError: no weights, a shard is missing, or the shards are not what their index says.
    """
    for name in SINGLE:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return unwrapped(folder, _sharded(folder, _weight_map(index), index.name))
        if (folder / name).is_file():
            return unwrapped(folder, read_file(folder / name))
        if (folder / name).is_dir():  # zero_to_fp32 writes a folder of the name that it is given
            return read_tensors(folder / name)
    if files := _loose_shards(folder):
        return unwrapped(folder, _read_shards(folder, files))
    raise DataError(f"{folder}: no weights there; looked for {', '.join(SINGLE)} and their .index.json")


def _weight_map(index: Path) -> dict[str, str]:
    files = read_object(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()) or not files:
        raise DataError(f"{index}: its weight_map does not say which file holds which tensor; download it again")
    return files


def _sharded(folder: Path, files: Mapping[str, str], index: str) -> dict[str, Tensor]:
    for file in sorted(set(files.values())):
        if Path(file).name != file or not (folder / file).is_file():
            raise DataError(f"{folder}: {index} names {file}, which is not there; download it again")
    tensors = _read_shards(folder, sorted(set(files.values())))
    if wrong := sorted(set(tensors) ^ set(files)):
        raise DataError(
            f"{folder}: the shards and {index} differ in {len(wrong)} tensors, e.g. {wrong[0]}; download it again"
        )
    return tensors


def _loose_shards(folder: Path) -> list[str]:
    """Shards without an index, which are complete by their own names.

    Raises:
        DataError: one is missing.
    """
    found = sorted((m for p in folder.glob("*model-*-of-*") if (m := SHARD.fullmatch(p.name))), key=lambda m: m[0])
    if not found:
        return []
    first = found[0]
    wanted = [
        f"{first['stem']}-{i:05d}-of-{first['count']}.{first['suffix']}"
        for i in range(1, min(int(first["count"]), 9999) + 1)
    ]
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        raise DataError(f"{folder}: {missing[0]} is missing, of {len(wanted)} shards; download it again")
    return wanted


def _read_shards(folder: Path, files: Iterable[str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        found = read_file(folder / file)
        if twice := sorted(set(found) & set(tensors)):
            raise DataError(f"{folder}: {len(twice)} tensors are in two shards, e.g. {twice[0]}; download it again")
        tensors |= found
    return tensors


def read_file(file: Path) -> dict[str, Tensor]:
    """The tensors of one file by the names that it has for them.

    Raises:
        DataError: it cannot be read without running code, or holds something else.
    """
    try:
        held = load_file(file) if file.suffix == ".safetensors" else _load_torch(file)
    except Exception as e:  # the readers' own error types are many and not public; all mean the same to a person
        raise DataError(f"{file}: not readable: {first_line(e)}; download it again") from e
    for key in HOLDERS:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict):
        raise DataError(f"{file} holds a {type(held).__name__} and no tensors by name; save the model's state_dict()")
    for name, tensor in held.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise DataError(f"{file}: {str(name)[:80]!r} is no tensor but a {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise DataError(f"{file}: {name[:80]} is a {tensor.layout} tensor on {tensor.device.type}; save it dense")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise DataError(f"{file}: {name[:80]} is a view that is larger than its bytes; save a copy of it")
    return dict(held)


def _load_torch(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as e:
        if "mmap" not in str(e):
            raise
        return torch.load(file, map_location="cpu", weights_only=True)  # written by torch before 1.6


def unwrapped(where: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without the names of what wrapped the model when they were saved.

    Raises:
        DataError: two become one.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = name
        for wrapper, instead in WRAPPERS:
            plain = wrapper.sub(instead, plain)
        if plain in found:
            raise DataError(
                f"{where}: {plain} is there twice, once as {name}; one of the two was not meant to be saved"
            )
        found[plain] = tensor
    return found
