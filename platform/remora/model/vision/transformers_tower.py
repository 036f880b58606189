"""Encoders that transformers supports: CLIP, SigLIP, DINOv2 (with registers), ViT and similar ones.

Only what is used is built: with layer -2, the last block, the final norm and SigLIP's pooling head do not exist, and
the result still equals hidden_states[-2] of the whole model.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from remora.catalog import Vision
from remora.errors import DataError, SpecError, nearest
from remora.model.hub import snapshot
from remora.model.vision.tower import Tower, Unread, blocks_read

UNREADABLE = (OSError, RuntimeError, ValueError, SafetensorError, pickle.UnpicklingError, EOFError)
"""What torch, safetensors and transformers raise for files that are missing, truncated or not weights."""


class TransformersTower(Tower):
    """hidden_states[entry.layer] of a transformers encoder without the prefix tokens: [B, tokens, width].

    At a size other than its training size, positions are interpolated by transformers (`interpolate_pos_encoding`); the
    weights always keep the grid of their checkpoint.

    `net` is the transformers model, so `net.save_pretrained` writes the names that published checkpoints have.
    """

    def __init__(self, net: PreTrainedModel, total: int, entry: Vision) -> None:
        """`net` has only the used blocks; `total` is the number of blocks of the published encoder."""
        super().__init__()
        self.net = net
        self.prefix = entry.prefix
        self.told = {"interpolate_pos_encoding": True} if entry.interpolated else {}
        self.tail = []
        self._blocks = _strip(net)
        held = len(net.get_submodule(self._blocks))  # type: ignore[arg-type]
        self.blocks.extend(Unread() for _ in range(total - held))

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]  # one registration, or every weight would be saved twice
        return self.net.get_submodule(self._blocks)  # type: ignore[return-value]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixel_values=pixels, **self.told).last_hidden_state[:, self.prefix :]


def _strip(net: PreTrainedModel) -> str:
    """Remove everything that the last block's output does not need; returns the name of the list of blocks.

    Raises:
        SpecError: the model has no such list, or does not take pictures.
    """
    if net.main_input_name != "pixel_values":
        raise SpecError(f"model_type {net.config.model_type!r} does not read pictures; it reads {net.main_input_name}")
    count = net.config.num_hidden_layers
    lists = [n for n, m in net.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise SpecError(
            f"model_type {net.config.model_type!r} has no list of {count} blocks; it is not a plain encoder"
        )
    children = [name for name, _ in net.named_children()]
    for name in children[children.index(lists[0].partition(".")[0]) + 1 :]:
        # Final norm, pooler, pooling head. Modules without weights stay: some models have rotary positions there.
        if any(True for _ in getattr(net, name).parameters()):
            setattr(net, name, nn.Identity())
    for module in net.modules():
        if getattr(module, "mask_token", None) is not None:
            module.mask_token = None  # type: ignore[assignment]  # of masked pretraining; without a mask no gradient ever reaches it
    return lists[0]


def _config(entry: Vision) -> tuple[PreTrainedConfig, int]:
    """The config of the used part, and the number of blocks of the whole encoder.

    Raises:
        SpecError: transformers has no such model, or it has no such layer.
    """
    kind = entry.config["model_type"]
    if kind not in CONFIG_MAPPING:
        raise SpecError(f"vision {entry.short}: transformers has no model_type {kind!r}{nearest(kind, CONFIG_MAPPING)}")
    try:
        config = AutoConfig.for_model(**entry.config)
    except (ValueError, TypeError, StrictDataclassError) as e:
        raise SpecError(f"vision {entry.short}: config: {' '.join(str(e).split())}") from None
    total = getattr(config, "num_hidden_layers", 0)
    if not total:
        raise SpecError(
            f"vision {entry.short}: model_type {kind!r} is not an encoder of equal blocks; write only the vision "
            "config, such as clip_vision_model, siglip_vision_model, dinov2 or vit"
        )
    config.num_hidden_layers = blocks_read(entry, total)
    return config, total


def transformers_tower(entry: Vision, pretrained: bool) -> Tower:
    """Build the entry's encoder from its config; pretrained weights come from its hub id or folder.

    Raises:
        SpecError: transformers has no such encoder, or it has no such layer.
        DataError: the folder is not available, or does not have the weights.
    """
    config, total = _config(entry)
    if not pretrained:
        return TransformersTower(AutoModel.from_config(config), total, entry)
    assert entry.hub is not None, "the catalog checks it"
    folder = snapshot(entry.hub, entry.revision)
    with quiet():
        try:
            # transformers' loading also maps the names of older checkpoints, and ignores a text tower.
            net, found = AutoModel.from_pretrained(
                folder,
                config=config,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                local_files_only=True,
            )
        except UNREADABLE as e:
            reason = " ".join(str(e).split())[:300]
            raise DataError(f"{folder}: unreadable weights: {reason}; download the model again") from e
    tower = TransformersTower(net, total, entry)
    _check(tower, found, folder)
    return tower


class LoadingInfo(TypedDict):
    """What transformers says of a checkpoint that it has loaded, as far as it is read here."""

    missing_keys: set[str]
    mismatched_keys: set[tuple[str, Sequence[int], Sequence[int]]]
    """Each with its shape in the file and in the model."""


def _check(tower: TransformersTower, found: LoadingInfo, folder: Path) -> None:
    """Refuse weights that are missing or have another shape, about which transformers only warns.

    Heads, norms and blocks that the tower does not use may be absent.
    """
    held = tower.net.state_dict().keys()
    if missing := sorted(held & set(found["missing_keys"])):
        raise DataError(
            f"{folder} lacks {len(missing)} of the encoder's {len(held)} weights ({', '.join(missing[:3])}, …); "
            f"give the folder of a {tower.net.config.model_type}, or the config that fits it"
        )
    if wrong := sorted(m for m in found["mismatched_keys"] if m[0] in held):
        name, there, wanted = wrong[0]
        raise DataError(
            f"{folder}: {name} has shape {list(there)}, the catalog's config wants {list(wanted)}; "
            "correct the config or the hub id"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' progress bar and its table of ignored text tower weights."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
