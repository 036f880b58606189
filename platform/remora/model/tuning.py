"""Freeze and train parts by a stage's tuning, explicitly and with a table of the result."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from remora.model.blocks import blocks_of
from remora.model.lora import add_adapter
from remora.model.patches.dropout import key_dropouts
from remora.model.seeds import seed_for
from remora.model.split import is_split, shape_of
from remora.model.vision import Unread
from remora.model.vlm import VisionLanguageModel
from remora.spec import PARTS, PartTuning, Stage, Tuning


@dataclass(frozen=True)
class TuningRow:
    """One part's row in the table: mode, parameters, trained parameters, learning rate."""

    part: str
    mode: str
    parameters: int
    trained: int
    lr: float | None


def _trained_modules(part: str, module: nn.Module, tuning: PartTuning) -> list[nn.Module]:
    if tuning.mode == "full":
        return [module]
    blocks, tail = blocks_of(module)
    read = sum(not isinstance(b, Unread) for b in blocks)
    return [*blocks[tuning.first_block(part, len(blocks), read) :], *tail]


def freeze_and_train(model: VisionLanguageModel, tuning: Tuning, seed: int = 0) -> None:
    """Set `requires_grad` and the mode of every part. Frozen parts have no gradients and stay in eval mode, except for
    their dropout if the tuning asks for it.

    `seed` initialises adapters; each part has its own random stream.

    Raises:
        SpecError: a part has fewer blocks than the tuning asks for, or an adapter's target does not exist.
    """
    for part in PARTS:
        module = model.part(part)
        if module is None:
            continue
        module.requires_grad_(False)
        module.train(tuning[part].trains)
        if tuning[part].mode == "lora":
            adapter = tuning[part].lora
            assert adapter is not None
            add_adapter(part, module, adapter, seed_for(seed, f"lora/{part}"))
        elif tuning[part].trains:
            for trained in _trained_modules(part, module, tuning[part]):
                trained.requires_grad_(True)
        if tuning[part].trains or tuning[part].dropout:
            model.dropouts[part] = key_dropouts(module, first_layer=100_000 * PARTS.index(part))
            if tuning[part].dropout:  # only dropout: the rest of a frozen part stays in eval mode
                for dropout in model.dropouts[part]:
                    dropout.train()


def halve_frozen(model: VisionLanguageModel, tuning: Tuning, dtype: torch.dtype) -> None:
    """Hold the matrices of parts whose own weights are frozen in `dtype`, in place.

    torch.autocast casts them the same way in every pass, so results do not change; this halves their memory and saves
    the casts. Norms and embeddings compute in fp32 and stay fp32. So do partly trained parts, which are saved whole,
    and all weights under ZeRO 3, where a rank has only a shard of each.
    """
    for part in PARTS:
        module = model.part(part)
        if module is None or tuning[part].mode not in ("frozen", "lora"):
            continue
        embedded = {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding)}
        for child in module.modules():
            if isinstance(child, (nn.Linear, nn.Conv2d)) and id(child.weight) not in embedded:
                for parameter in child.parameters(recurse=False):
                    if not parameter.requires_grad and not is_split(parameter) and parameter.is_floating_point():
                        parameter.data = parameter.data.to(dtype)


def tuning_table(model: VisionLanguageModel, stage: Stage) -> list[TuningRow]:
    """One row per part. `ds_numel` is the full size of a parameter that ZeRO 3 has sharded."""
    rows = []
    for part in PARTS:
        module = model.part(part)
        if module is None:
            continue
        sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in module.parameters()]
        tuning = stage.tune[part]
        mode = tuning.mode if tuning.blocks is None else f"{tuning.mode} {tuning.blocks}"
        if tuning.lora:
            mode = f"lora r={tuning.lora.r}" + (f" on {tuning.lora.bits} bits" if tuning.lora.bits else "")
        trained = sum(n for n, trains in sizes if trains)
        rows.append(TuningRow(part, mode, sum(n for n, _ in sizes), trained, stage.lr_of(part) if trained else None))
    return rows


def parameter_groups(model: VisionLanguageModel, stage: Stage) -> list[dict[str, object]]:
    """Optimiser groups: for each trained part, one with and one without weight decay.

    Vectors (biases, norms, latent scales) do not decay. transformers' Trainer excludes biases and norm weights by
    module and name, so it decays CLIP's class embedding and DINOv2's layer scales, which are vectors too. No published
    run of the family uses weight decay, so the difference does not matter there.
    """
    groups: list[dict[str, object]] = []
    for part in stage.tune.trained:
        module = model.part(part)
        assert module is not None
        for decays in (True, False):
            params = [p for p in module.parameters() if p.requires_grad and (len(shape_of(p)) > 1) == decays]
            if params:
                decay = stage.weight_decay_of(part) if decays else 0.0
                groups.append({"params": params, "part": part, "lr": stage.lr_of(part), "weight_decay": decay})
    return groups
