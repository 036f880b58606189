"""Merge published LoRA adapters into the weights of a part: W + scale B A."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from remora.errors import DataError
from remora.exchange.tensors import read_file, read_object, unwrapped

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
REFUSED = (
    "use_dora",
    "fan_in_fan_out",
    "alpha_pattern",
    "lora_bias",
    "layer_replication",
    "megatron_config",
    "eva_config",
)
"""peft settings with which an adapter is not simply W + scale B A."""
LARGEST = 1e9
"""Larger than any real lora_alpha; JSON numbers in broken files are unbounded."""


@dataclass(frozen=True)
class Adapter:
    """An adapter from its folder: its tensors, the name of its base, and its scale."""

    tensors: dict[str, Tensor]
    base: str | None
    alpha: float
    rank_stabilised: bool

    def scale(self, rank: int) -> float:
        """The scale for a rank; rank-stabilised LoRA (arXiv 2312.03732) divides by its square root."""
        return self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def has_adapter(folder: Path) -> bool:
    """Whether the folder has a peft adapter."""
    return (folder / CONFIG).is_file() or any((folder / name).is_file() for name in FILES)


def read_adapter(folder: Path, torn: bool = True) -> Adapter:
    """The adapter of a folder, in peft's layout. Unless `torn`, its weights file may be missing, because the weights
    beside it contain the adapter.

    Raises:
        DataError: one of its files is missing, or its kind cannot be merged here.
    """
    if not (folder / CONFIG).is_file():
        raise DataError(f"{folder}: an adapter without its {CONFIG}, which has its scale; copy it there")
    said = read_object(folder / CONFIG)
    kind, alpha, base = said.get("peft_type"), said.get("lora_alpha"), said.get("base_model_name_or_path")
    if kind != "LORA":
        raise DataError(
            f"{folder}: an adapter of kind {str(kind)[:40]!r}; only LORA is merged here: merge it with peft"
        )
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < LARGEST:
        raise DataError(f"{folder}/{CONFIG}: lora_alpha {str(alpha)[:40]!r} is not a number; copy the file again")
    if odd := [key for key in REFUSED if said.get(key)]:
        raise DataError(
            f"{folder}: its {CONFIG} has {odd[0]}, which is not merged here: merge it with peft and import that"
        )
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is None and torn:
        raise DataError(f"{folder}: {CONFIG} without {' or '.join(FILES)}; copy the adapter's weights there")
    tensors = unwrapped(file, read_file(file)) if file else {}
    return Adapter(tensors, base if isinstance(base, str) and base else None, alpha, bool(said.get("use_rslora")))


def merge(part: str, state: Mapping[str, Tensor], adapter: Adapter | None) -> dict[str, Tensor]:
    """`state` with every pair `X.lora_A.weight` [r, in], `X.lora_B.weight` [out, r] added to `X.weight` [out, in].

    Sums are in fp32 and cast back to the weight's dtype.

    Raises:
        DataError: half a pair, no weight of that shape, or no scale for the adapters.
    """
    pairs = sorted({name.partition(".lora_")[0] for name in state if ".lora_" in name})
    merged = {name: tensor for name, tensor in state.items() if ".lora_" not in name}
    if pairs and adapter is None:
        raise DataError(
            f"{part}: {len(pairs)} adapters, e.g. {pairs[0]}, and no {CONFIG} with their scale; copy it there"
        )
    known = {f"{pair}.lora_{half}.weight" for pair in pairs for half in "AB"}
    if odd := sorted({name for name in state if ".lora_" in name} - known):
        raise DataError(f"{part}: {odd[0]} is not a LoRA of a linear layer; merge it with peft and import that")
    for pair in pairs:
        assert adapter is not None
        a, b = state.get(f"{pair}.lora_A.weight"), state.get(f"{pair}.lora_B.weight")
        if a is None or b is None:
            raise DataError(
                f"{part}: {pair} has only lora_{'B' if a is None else 'A'}; the adapter is torn: copy it again"
            )
        weight = merged.get(f"{pair}.weight")
        fits = a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1] > 0
        if weight is None or not fits or weight.shape != (b.shape[0], a.shape[1]):
            found = "does not exist" if weight is None else f"is {list(weight.shape)}"
            raise DataError(
                f"{part}: {pair}.weight {found}, its adapter {list(b.shape)} x {list(a.shape)}; "
                "the adapter was made for another model"
            )
        merged[f"{pair}.weight"] = (weight.float() + adapter.scale(len(a)) * (b.float() @ a.float())).to(weight.dtype)
    return merged


def with_adapter(base: Mapping[str, Tensor], adapter: Adapter) -> dict[str, Tensor]:
    """The base's tensors plus the adapter's; fully saved modules (a connector) replace the base's."""
    return {**base, **adapter.tensors}


def check_finite(part: str, state: Mapping[str, Tensor]) -> None:
    """Check that every number is finite.

    Raises:
        DataError: a tensor has NaN or an infinity; the message names the first.
    """
    for name in sorted(state):
        tensor = state[name]
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        low, high = torch.aminmax(tensor)  # NaN passes through both
        if not (math.isfinite(low) and math.isfinite(high)):
            what = "NaN" if math.isnan(low) else "an infinity"
            raise DataError(f"{part}: {name} has {what}; its training diverged: take an earlier one")
