"""A vision tower between its transformers class and ours: cut at the block that is read, in memory and in a config."""

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
"""What a tower has behind its last block, and DINOv2's token of masked pretraining: the blocks' output needs none."""
BUFFERS = ("inv_freq", "position_ids", ".attention.bias", ".attention.masked_bias")
"""What classes used to save beside their weights, and compute today."""
BLOCK = re.compile(r"(?:^|\.)layers?\.(\d+)\.")


def cut_config(config: PretrainedConfig, blocks: int) -> PretrainedConfig:
    """The config of the tower's first `blocks` blocks, without SigLIP's pooling head."""
    said = config.to_dict()
    for key in ("out_features", "out_indices", "stage_names"):  # what a backbone (DINOv2) derives from its depth
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
    """The tensors of a tower of `config` (see `cut_config`); those that nobody reads are made up if they are not there.

    A final norm becomes the neutral one, the rest zeros. Tensors that belong to no tower of that config are kept, so
    that whoever loads the result strictly finds them.
    """
    wanted = outline_of(AutoModel, config, "vision tower").state_dict()
    dtype = floating_type(state)
    kept = {k: v for k, v in state.items() if k in wanted or is_read(k, config.num_hidden_layers)}
    for name, tensor in wanted.items():
        if name not in kept and name.startswith(UNREAD):
            kept[name] = (torch.ones if name.endswith("norm.weight") else torch.zeros)(tensor.shape, dtype=dtype)
    return kept


def module_of(tower: nn.Module) -> PreTrainedModel:
    """The module of transformers inside one of our towers.

    Raises:
        DataError: there is none.
    """
    for module in tower.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise DataError(f"{type(tower).__name__} holds no module of transformers; next: remora catalog vision")


def outline_of(auto: Any, config: PretrainedConfig, what: str) -> PreTrainedModel:
    """The model of a config without storage.

    Raises:
        DataError: there is none.
    """
    try:
        with torch.device("meta"):
            return cast(PreTrainedModel, auto.from_config(config))
    except Exception as e:  # what a config leads to when its values do not fit each other
        raise DataError(f"{what}: no model can be built from its config: {first_line(e)}; check its config.json") from e


def load_strictly(
    auto: Any, config: PretrainedConfig, state: Mapping[str, Tensor], what: str, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """A model of `config` with the tensors of `state` in it, under published or present names, in `dtype`, or
    in the type that most of them have.

    transformers renames what it has renamed since (its conversion mapping); what is then too many or too few is an
    error and not, as there, a warning.

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
    except Exception as e:  # transformers raises what its loading happens to meet
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
    return cast(PreTrainedModel, model)
