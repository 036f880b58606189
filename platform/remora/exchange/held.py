"""Read published checkpoints in these forms:

whole model         model.safetensors, pytorch_model.bin, their shards; also the output of zero_to_fp32
folder per part     language_model/, vision_tower/, connector/, each with weights (TinyLLaVA Factory)
adapters            adapter_config.json, adapter_model.*, and LLaVA's non_lora_trainables.bin, on a named base
connector only      mm_projector.bin (LLaVA's alignment), with the encoder and language model that its config names

Anything else is refused with advice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from remora.errors import DataError
from remora.exchange.adapters import Adapter, has_adapter, read_adapter, with_adapter
from remora.exchange.tensors import has_tensors, read_file, read_object, read_tensors, unwrapped
from remora.model.hub import snapshot

PROJECTOR, BESIDE_LORA = "mm_projector.bin", "non_lora_trainables.bin"
FOLDERS = {
    "language_model": "language_model.",
    "vision_tower": "vision_tower._vision_tower.",
    "connector": "connector._connector.",
}
"""Factory's folders, and the prefixes of their tensors in its whole checkpoints."""
LLAVA_TOWER = "model.vision_tower.vision_tower."
QUANTISED = {
    r"\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format)$|\.quant_state\.": "bitsandbytes",
    r"\.(qweight|qzeros|g_idx)$": "GPTQ or AWQ",
}
BUFFERS = re.compile(r"(position_ids|\.attention\.bias|\.attn\.bias|num_batches_tracked|token_type_ids)$")
"""Integer tensors that are allowed in a checkpoint: buffers that old versions of a class saved."""


@dataclass(frozen=True)
class Held:
    """A checkpoint as one set of tensors, by the names of its layout's whole models."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    adapter: Adapter | None = None
    """The adapter with the scale of `lora_A` and `lora_B` in the tensors."""
    connector_alone: bool = False
    folders: tuple[Path, ...] = ()
    """Folders that may have its tokenizer, the likeliest first."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user, one line each."""


def read_held(folder: Path, base: str | None = None) -> Held:
    """Read the checkpoint in `folder`; `base` replaces the base that an adapter names.

    Raises:
        DataError: it is something else (the message says what to do), or it is damaged.
    """
    if folder.is_file():
        raise DataError(
            f"{folder} is a file; give its folder, with the config.json and the tokenizer that belong to it"
        )
    adapter = read_adapter(folder, torn=not has_tensors(folder)) if has_adapter(folder) else None
    if base and not adapter:
        raise DataError(f"--base {base}: {folder} has no adapters that need a base; leave it out")
    if adapter and not (folder / "config.json").is_file():
        under = _base(folder, adapter, base)
        held = _Reading(read_config(under), read_tensors(under), [_merged(under)], under)
    else:
        held = _Reading(read_config(folder), {}, [])
        _read_own(folder, held, adapter, base)
    if adapter:
        held.tensors = with_adapter(held.tensors, adapter)
    _check_types(folder, held.tensors)
    folders = (folder, folder / "language_model", *([held.base] if held.base else []))
    return Held(held.config, held.tensors, adapter, held.connector_alone, folders, held.notes)


@dataclass
class _Reading:
    """The state while reading a checkpoint."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    notes: list[str]
    base: Path | None = None
    connector_alone: bool = False


def _merged(base: Path) -> str:
    return f"its adapters are merged into {base.name}"


def read_config(folder: Path) -> dict[str, object]:
    """The checkpoint's config.json.

    Raises:
        DataError: it does not exist, or is not a JSON object.
    """
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder}: no config.json there; {what_else(folder)}")
    return read_object(folder / "config.json")


def _read_own(folder: Path, held: _Reading, adapter: Adapter | None, base: str | None) -> None:
    """The tensors of a folder that has a config.json."""
    if has_tensors(folder):
        held.tensors = read_tensors(folder)
        tower = folder / "vision_tower"
        if has_tensors(tower) and not any(LLAVA_TOWER in name for name in held.tensors):
            held.tensors |= {f"{LLAVA_TOWER}{k}": t for k, t in read_tensors(tower).items()}
            held.notes.append("its vision_tower/ is a part of it")
    elif any((folder / name).is_dir() for name in FOLDERS):
        held.tensors = _folders(folder)
    elif adapter:
        under = _base(folder, adapter, base)
        held.tensors, held.base = _language_base(under), under
        held.notes.append(_merged(under))
        if (folder / BESIDE_LORA).is_file():
            held.tensors |= _of_llava(folder / BESIDE_LORA)
    elif (folder / BESIDE_LORA).is_file():
        raise DataError(
            f"{folder}: {BESIDE_LORA} is what LLaVA saves beside a LoRA adapter, and the adapter is missing; "
            "copy adapter_model.* and adapter_config.json there"
        )
    elif (folder / PROJECTOR).is_file():
        held.tensors, held.connector_alone = _of_llava(folder / PROJECTOR), True
        if odd := [name for name in held.tensors if not name.startswith("model.mm_projector.")]:
            raise DataError(
                f"{folder / PROJECTOR}: {odd[0]} is not part of a connector; only a connector can be imported from it"
            )
        held.notes.append("only a connector (mm_projector.bin): encoder and language model are those that it names")
    else:
        raise DataError(f"{folder}: no weights there; {what_else(folder)}")


def _folders(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for part, prefix in FOLDERS.items():
        if not has_tensors(folder / part):
            raise DataError(
                f"{folder}: a checkpoint with one folder per part, and no weights in {part}/; "
                f"copy pytorch_model.bin there (TinyLLaVA Factory writes {', '.join(FOLDERS)})"
            )
        inner = prefix.partition(".")[2]
        tensors |= {prefix + name.removeprefix(inner): t for name, t in read_tensors(folder / part).items()}
    return tensors


def _of_llava(file: Path) -> dict[str, Tensor]:
    """A file beside LLaVA's weights; its connector's tensors are renamed as in a whole model, whatever their prefix."""
    found = {}
    for name, tensor in unwrapped(file, read_file(file)).items():
        before, mark, rest = name.partition("mm_projector.")
        if mark or re.match(r"\d+\.(weight|bias)$", name):
            found[f"model.mm_projector.{rest if mark else before}"] = tensor
        else:
            found[name.removeprefix("model.") if name.startswith("model.model.") else name] = tensor
    return found


def _base(folder: Path, adapter: Adapter, base: str | None) -> Path:
    """The folder of the model that an adapter was made for."""
    name = base or adapter.base
    if not name:
        raise DataError(
            f"{folder}: adapters whose adapter_config.json names no base; give its folder or hub id: --base"
        )
    if Path(name).expanduser().is_dir():
        found = Path(name).expanduser()
    elif name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise DataError(
            f"{folder}: adapters on {name}, which does not exist; give the base's folder or hub id: --base DIR"
        )
    else:
        try:
            found = snapshot(name)
        except DataError as e:
            raise DataError(f"{folder}: adapters on {name}: {e}; or give the base's folder: --base DIR") from e
    if has_adapter(found):
        raise DataError(
            f"{folder}: its base {found} has adapters itself; merge them first: remora import, remora export"
        )
    return found


def _language_base(folder: Path) -> dict[str, Tensor]:
    """The base of a LLaVA-style adapter, without a head bias: LLaVA's classes have none, even if the base does."""
    tensors = read_tensors(folder)
    tensors.pop("lm_head.bias", None)
    return tensors


def _check_types(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not floating point, or that were saved without being gathered."""
    for name, tensor in sorted(tensors.items()):
        for pattern, by in QUANTISED.items():
            if re.search(pattern, name):
                raise DataError(_quantised(folder, by, name))
        if tensor.is_floating_point() and tensor.element_size() == 1:
            raise DataError(_quantised(folder, str(tensor.dtype).removeprefix("torch."), name))
        if not tensor.is_floating_point() and not BUFFERS.search(name):
            if tensor.element_size() == 1:
                raise DataError(_quantised(folder, str(tensor.dtype).removeprefix("torch."), name))
            raise DataError(f"{folder}: {name} is {tensor.dtype}, and weights must be floating point; save it again")
        if not tensor.numel():
            raise DataError(
                f"{folder}: {name} has no elements: it was saved under ZeRO 3 without being gathered; "
                "run the checkpoint's zero_to_fp32.py and import what it writes"
            )


def _quantised(folder: Path, by: str, name: str) -> str:
    return (
        f"{folder}: its weights are quantised ({by}), e.g. {name}; import the checkpoint that it was made from, "
        "or what transformers' model.dequantize() and save_pretrained() write of it"
    )


def what_else(folder: Path) -> str:
    """The end of an error message: what a folder without a readable checkpoint has, and what to do."""
    if not folder.is_dir():
        return "there is no such folder; give that of a downloaded or trained model"
    names = sorted(p.name for p in folder.iterdir())
    steps = [n for n in names if n.startswith("global_step")]
    if steps or any(n.endswith(("_optim_states.pt", "_model_states.pt")) for n in names):
        merge = f"python {folder}/zero_to_fp32.py {folder} {folder}/merged"
        return (
            f"{steps[-1] if steps else 'it'} is a DeepSpeed checkpoint that was never merged; "
            f"next: {merge}, copy config.json and the tokenizer into merged/, and import that"
        )
    if checkpoints := [n for n in names if re.fullmatch(r"checkpoint-\d+", n) and (folder / n).is_dir()]:
        last = max(checkpoints, key=lambda n: int(n.rpartition("-")[2]))
        return f"it has checkpoints of a training run; give one of them: {folder / last}"
    if PROJECTOR in names:
        return f"{PROJECTOR} is only a connector: copy the config.json that was saved beside it, which names the parts"
    kinds = {
        ".gguf": "llama.cpp's weights, which are rounded: import the checkpoint that they were made from",
        ".msgpack": "Flax weights: load them in transformers (from_flax) and save_pretrained",
        ".h5": "TensorFlow weights: load them in transformers (from_tf) and save_pretrained",
        ".pth": "a torch file of no known layout: save the model's state_dict() as pytorch_model.bin",
        ".pt": "a torch file of no known layout: save the model's state_dict() as pytorch_model.bin",
    }
    for name in names:
        if what := kinds.get(Path(name).suffix):
            return f"{name} is {what}"
    if "bundle.json" in names:
        return "it is a bundle of Remora already: export and evaluate read it as it is"
    known = (
        "model.safetensors, pytorch_model.bin, their .index.json, adapter_model.*, mm_projector.bin, language_model/"
    )
    return f"give the folder of a downloaded or trained model; looked for {known}"


def floating_type(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The floating point dtype of most bytes; fp32 if there are none. Integers and small buffers do not count."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        if tensor.is_floating_point():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel() * tensor.element_size()
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)
