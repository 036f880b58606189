"""The tensors of a published checkpoint: safetensors or torch files, in one file or in shards. No code is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from remora.errors import DataError

SINGLE = ("model.safetensors", "pytorch_model.bin")


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json.

    Raises:
        DataError: there is none, or it is no JSON object.
    """
    try:
        said = json.loads((folder / "config.json").read_text())
    except OSError:
        raise DataError(f"{folder}: no config.json there; give the folder of a downloaded model") from None
    except ValueError as e:
        raise DataError(f"{folder}/config.json is no JSON: {e}; download it again") from None
    if not isinstance(said, dict):
        raise DataError(f"{folder}/config.json holds no object; download it again")
    return said


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor by its published name, mapped from disk where the format allows.

    Raises:
        DataError: no weights, a shard is missing, or the shards are not what their index says.
    """
    for name in SINGLE:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _sharded(folder, json.loads(index.read_text())["weight_map"], index.name)
        if (folder / name).is_file():
            return _read(folder / name)
    raise DataError(f"{folder}: no weights there; looked for {', '.join(SINGLE)} and their .index.json")


def _sharded(folder: Path, files: dict[str, str], index: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        if Path(file).name != file or not (folder / file).is_file():
            raise DataError(f"{folder}: {index} names {file}, which is not there; download it again")
        found = _read(folder / file)
        if twice := sorted(set(found) & set(tensors)):
            raise DataError(f"{folder}: {len(twice)} tensors are in two shards, e.g. {twice[0]}; download it again")
        tensors |= found
    if wrong := sorted(set(tensors) ^ set(files)):
        raise DataError(
            f"{folder}: the shards and {index} differ in {len(wrong)} tensors, e.g. {wrong[0]}; download it again"
        )
    return tensors


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return dict(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
    except Exception as e:  # the readers' own error types are many and not public; all mean the same to a person
        raise DataError(f"{file}: not readable: {str(e).splitlines()[0]}; download it again") from e
