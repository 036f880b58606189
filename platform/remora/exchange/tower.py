"""Convert vision towers between transformers' classes and ours, cut at the used block, in memory and in the config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from remora.errors import DataError, first_line
from remora.exchange.held import floating_type

UNREAD = ("post_layernorm.", "layernorm.", "norm.", "head.", "pooler.", "embeddings.mask_token")
"""Tensors after a tower's last block, and DINOv2's mask token: the blocks' output does not need them."""
BUFFERS = ("inv_freq", "position_ids", ".attention.bias", ".attention.masked_bias")
"""Buffers that older versions saved and current ones compute."""
BLOCK = re.compile(r"(?:^|\.)layers?\.(\d+)\.")


def cut_config(config: PretrainedConfig, blocks: int) -> PretrainedConfig:
    """The config of the tower's first `blocks` blocks, without SigLIP's pooling head."""
    said = config.to_dict()
    for key in ("out_features", "out_indices", "stage_names"):  # a backbone (DINOv2) derives them from its depth
        said.pop(key, None)
    cut = cast(PretrainedConfig, type(config).from_dict(said | {"num_hidden_layers": blocks}))
    if cut.model_type == "siglip_vision_model":
        cut.vision_use_head = False
    return cut


def is_read(name: str, blocks: int) -> bool:
    """Whether the output of block `blocks` depends on the tensor of that name."""
    found = BLOCK.search(name)
    return int(found[1]) < blocks if found else not name.startswith(UNREAD)


def cut_state(config: PretrainedConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a tower of `config` (see `cut_config`); unused ones are filled in if missing.

    A missing final norm becomes the identity, the rest zeros. Tensors that do not belong to a tower of that config are
    kept, so that strict loading reports them.
    """
    wanted = outline_of(AutoModel, config, "vision tower").state_dict()
    dtype = floating_type(state)
    kept = {k: v for k, v in state.items() if k in wanted or is_read(k, config.num_hidden_layers)}
    for name, tensor in wanted.items():
        if name not in kept and name.startswith(UNREAD):
            kept[name] = (torch.ones if name.endswith("norm.weight") else torch.zeros)(tensor.shape, dtype=dtype)
    return kept


def module_of(tower: nn.Module) -> PreTrainedModel:
    """The transformers module inside one of our towers.

    Raises:
        DataError: there is none.
    """
    for module in tower.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise DataError(f"{type(tower).__name__} has no transformers module; next: remora catalog vision")


def outline_of(auto: Any, config: PretrainedConfig, what: str) -> PreTrainedModel:
    """The model of a config, on the meta device.

    Raises:
        DataError: it cannot be built.
    """
    try:
        with torch.device("meta"):
            return auto.from_config(config)
    except Exception as e:  # inconsistent values raise all kinds of errors
        raise DataError(f"{what}: no model can be built from its config: {first_line(e)}; check its config.json") from e


def load_strictly(
    auto: Any, config: PretrainedConfig, state: Mapping[str, Tensor], what: str, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """A model of `config` with the tensors of `state` in it, under published or present names, in `dtype`, or
    in the type that most of them have.

    transformers maps old names to present ones (its conversion mapping). Unknown or missing tensors are an error here,
    not a warning.

    Raises:
        DataError: a tensor is unknown, missing, or of another shape.
    """
    kind = type(outline_of(auto, config, what))
    try:
        model, said = cast(Any, kind).from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            dtype=dtype or floating_type(state),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as e:  # transformers' loading raises all kinds of errors
        raise DataError(f"{what}: its tensors are not those of its config.json: {first_line(e)}") from e
    for word, names in (("missing", said["missing_keys"]), ("unknown", said["unexpected_keys"])):
        names = sorted(n for n in names if not n.endswith(BUFFERS))
        if names:
            raise DataError(
                f"{what}: {len(names)} tensors are {word}, e.g. {', '.join(names[:3])}; "
                "the checkpoint is of another model than its config.json says"
            )
    if said["mismatched_keys"]:
        name, have, want = sorted(said["mismatched_keys"])[0]
        raise DataError(f"{what}: {name} is {list(have)} in the checkpoint and {list(want)} by its config.json")
    return model
