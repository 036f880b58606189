"""Read the tensors of a published checkpoint: safetensors or torch files, one file or shards. No code is executed.

Files are not trusted: shards must be in the folder itself, an index and its shards must have the same tensors, and no
tensor may be larger than its stored bytes. So reading takes no more memory than the files have bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from remora.errors import DataError, first_line

SINGLE = ("model.safetensors", "pytorch_model.bin")
SHARD = re.compile(r"(?P<stem>model|pytorch_model)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<suffix>safetensors|bin)")
HOLDERS = ("state_dict", "model_state_dict", "module", "model")
"""Keys under which training scripts put the tensors of a torch file."""
LARGEST_JSON = 64 << 20
"""Maximum bytes of a config or an index; Llama-3-405B's index has 0.1 MB."""
WRAPPERS = (
    (re.compile(r"^(?:module\.|_orig_mod\.)+"), ""),  # DistributedDataParallel and DeepSpeed; torch.compile
    (re.compile(r"^base_model\.model\."), ""),  # peft
    (re.compile(r"\.base_layer\."), "."),
    (re.compile(r"\.modules_to_save\.(?:default\.)?"), "."),
    (re.compile(r"\.(lora_[AB])\.default\."), r".\1."),
)
"""Prefixes that wrappers add to tensor names during training."""


def read_object(file: Path) -> dict[str, object]:
    """The JSON object of a file.

    Raises:
        DataError: the file has no JSON object, or is too large.
    """
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise DataError(f"{file} has {file.stat().st_size:,} bytes, too many for what it is; download it again")
        said = json.loads(file.read_bytes())
    except OSError as e:
        raise DataError(f"{file}: not readable: {e.strerror or e}; download it again") from None
    except (ValueError, RecursionError) as e:
        raise DataError(f"{file} is not valid JSON: {first_line(e)}; download it again") from None
    if not isinstance(said, dict):
        raise DataError(f"{file} is not a JSON object; download it again")
    return said


def has_tensors(folder: Path) -> bool:
    """Whether the folder has weights with a name that `read_tensors` knows."""
    names = [*SINGLE, *(f"{name}.index.json" for name in SINGLE)]
    return any((folder / name).exists() for name in names) or bool(_loose_shards(folder))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor by its published name without wrappers' prefixes, memory-mapped if the format allows.

    Raises:
        DataError: no weights, a missing shard, or shards that differ from their index.
    """
    for name in SINGLE:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return unwrapped(folder, _sharded(folder, _weight_map(index), index.name))
        if (folder / name).is_file():
            return unwrapped(folder, read_file(folder / name))
        if (folder / name).is_dir():  # zero_to_fp32 makes a folder of the given name
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
            raise DataError(f"{folder}: {index} names {file}, which does not exist; download it again")
    tensors = _read_shards(folder, sorted(set(files.values())))
    if wrong := sorted(set(tensors) ^ set(files)):
        raise DataError(
            f"{folder}: the shards and {index} differ in {len(wrong)} tensors, e.g. {wrong[0]}; download it again"
        )
    return tensors


def _loose_shards(folder: Path) -> list[str]:
    """Shards without an index, which are complete by their names.

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
    """The tensors of one file by their names there.

    Raises:
        DataError: it cannot be read without running code, or holds something else.
    """
    try:
        held = load_file(file) if file.suffix == ".safetensors" else _load_torch(file)
    except Exception as e:  # the readers have many private error types, which mean the same to a user
        raise DataError(f"{file}: not readable: {first_line(e)}; download it again") from e
    for key in HOLDERS:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict):
        raise DataError(f"{file} has a {type(held).__name__}, not tensors by name; save the model's state_dict()")
    for name, tensor in held.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise DataError(f"{file}: {str(name)[:80]!r} is not a tensor but a {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise DataError(f"{file}: {name[:80]} is a {tensor.layout} tensor on {tensor.device.type}; save it dense")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise DataError(f"{file}: {name[:80]} is a view that is larger than its bytes; save a copy of it")
    return dict(held)


def _load_torch(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as e:
        if "mmap" not in str(e):
            raise
        return torch.load(file, map_location="cpu", weights_only=True)  # written by torch before 1.6


def unwrapped(where: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers from tensor names.

    Raises:
        DataError: two tensors would have the same name.
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
