"""Weights that ZeRO 3 has split over the ranks, whole for a moment: to be read from files, merged, tried.

Under `training.engine.loading` what transformers loads comes with parameters of which a rank holds its share. They
bring DeepSpeed's own methods to gather and split them, so nothing of it is imported here. All ranks must come here
together, and write the same. Where nothing is split, these functions do what their names say and no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def is_split(tensor: Tensor) -> bool:
    return hasattr(tensor, "ds_id")


def shape_of(parameter: Tensor) -> torch.Size:
    """Its whole shape; what a rank holds of a split one has none."""
    return getattr(parameter, "ds_shape", parameter.shape)


@contextlib.contextmanager
def whole(tensors: Iterable[Tensor], written: bool = False) -> Iterator[None]:
    """The split ones of some tensors are whole for the length of the block; what was `written` into them is kept."""
    split: list[Any] = [t for t in dict.fromkeys(tensors) if is_split(t)]
    if split:
        split[0].all_gather(param_list=split)
    try:
        yield
    finally:
        if split:
            split[0].partition(param_list=split, has_been_updated=written)


@contextlib.contextmanager
def whole_as_they_run(module: nn.Module) -> Iterator[None]:
    """In the block the weights of each submodule are whole while it runs, for a pass without gradients."""
    hooks = []
    for child in module.modules():
        own = list(child.parameters(recurse=False))
        if any(is_split(p) for p in own):
            gathered = contextlib.ExitStack()
            hooks.append(child.register_forward_pre_hook(partial(_enter, gathered, own)))
            hooks.append(child.register_forward_hook(partial(_leave, gathered), always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _enter(gathered: contextlib.ExitStack, own: list[nn.Parameter], *_: object) -> None:
    gathered.enter_context(whole(own))


def _leave(gathered: contextlib.ExitStack, *_: object) -> None:
    gathered.close()


def load(module: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """`module.load_state_dict(state, strict)`, with one parameter whole at a time.

    Raises:
        RuntimeError: `strict`, and the names are not the module's; or a shape is another.
    """
    held = module.state_dict(keep_vars=True)
    if not any(is_split(t) for t in held.values()):
        module.load_state_dict(state, strict=strict)
        return
    if strict and (odd := sorted(held.keys() ^ state.keys())):
        raise RuntimeError(f"{len(odd)} names are in the module or in the state alone, the first {odd[0]!r}")
    for name in held.keys() & state.keys():
        if shape_of(held[name]) != state[name].shape:
            raise RuntimeError(f"{name} has shape {list(state[name].shape)}, the module's {list(shape_of(held[name]))}")
    for name, tensor in held.items():
        if name in state:
            with torch.no_grad(), whole([tensor], written=True):
                tensor.copy_(state[name])


def split_like(module: nn.Module, other: nn.Module) -> None:
    """Split the module's parameters over the ranks as those of `other` are, and move it to where they are computed."""
    parameter: Any = next(other.parameters(), None)
    if parameter is not None and is_split(parameter):
        module.to(parameter.device)
        parameter.convert_to_zero_parameters([p for p in module.parameters() if not is_split(p)])
