"""Temporarily gather weights that are sharded over ranks (ZeRO 3), to load, merge or try them.

Under `training.engines.loading`, transformers loads parameters of which each rank has a shard. The engine provides how
to gather and shard them (`split_by`). All ranks must call these functions together and write the same values. Without
sharding, they do only what their names say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn


class Splitting(Protocol):
    """How an engine gathers and shards tensors."""

    def is_split(self, tensor: Tensor) -> bool:
        """Whether this rank may have only a shard of it."""
        ...

    def shape_of(self, parameter: Tensor) -> torch.Size:
        """The full shape of a sharded parameter."""
        ...

    def gather(self, parameters: Sequence[Tensor]) -> None:
        """Gather sharded parameters on every rank."""
        ...

    def release(self, parameters: Sequence[Tensor], written: bool) -> None:
        """Shard them again: the current values if `written`, else the values before gathering."""
        ...

    def split_like(self, parameters: Sequence[nn.Parameter], like: Tensor) -> None:
        """Shard full parameters as `like` is sharded."""
        ...


_splitting: Splitting | None = None


def split_by(splitting: Splitting) -> None:
    """Set how this process handles sharded weights."""
    global _splitting
    _splitting = splitting


def is_split(tensor: Tensor) -> bool:
    return _splitting is not None and _splitting.is_split(tensor)


def shape_of(parameter: Tensor) -> torch.Size:
    """Its full shape; a sharded parameter itself has an empty one."""
    return _splitting.shape_of(parameter) if _splitting and is_split(parameter) else parameter.shape


@contextlib.contextmanager
def whole(tensors: Iterable[Tensor], written: bool = False) -> Iterator[None]:
    """Gather the sharded ones of some tensors during the block; with `written`, changes are kept."""
    split = [t for t in dict.fromkeys(tensors) if is_split(t)]
    if not _splitting or not split:
        yield
        return
    _splitting.gather(split)
    try:
        yield
    finally:
        _splitting.release(split, written)


@contextlib.contextmanager
def whole_as_they_run(module: nn.Module) -> Iterator[None]:
    """During the block, gather the weights of each submodule while it runs, for a pass without gradients."""
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
    """`module.load_state_dict(state, strict)`, gathering one parameter at a time.

    Raises:
        RuntimeError: `strict` and the names differ from the module's, or a shape differs.
    """
    held = module.state_dict(keep_vars=True)
    if not any(is_split(t) for t in held.values()):
        module.load_state_dict(state, strict=strict)
        return
    if strict and (odd := sorted(held.keys() ^ state.keys())):
        raise RuntimeError(f"{len(odd)} names are only in the module or only in the state, the first {odd[0]!r}")
    for name in held.keys() & state.keys():
        if shape_of(held[name]) != state[name].shape:
            raise RuntimeError(f"{name} has shape {list(state[name].shape)}, the module's {list(shape_of(held[name]))}")
    for name, tensor in held.items():
        if name in state:
            with torch.no_grad(), whole([tensor], written=True):
                tensor.copy_(state[name])


def split_like(module: nn.Module, other: nn.Module) -> None:
    """Shard the module's parameters over ranks as those of `other` are, and move it to their device."""
    parameter = next(other.parameters(), None)
    if _splitting and parameter is not None and is_split(parameter):
        module.to(parameter.device)
        _splitting.split_like([p for p in module.parameters() if not is_split(p)], parameter)
