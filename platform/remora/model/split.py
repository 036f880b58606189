"""Weights that an engine has split over the ranks (ZeRO 3), whole for a moment: to be read from files, merged, tried.

Under `training.engines.loading` what transformers loads comes with parameters of which a rank holds its share. How they
are gathered and split is the engine's business, which says so by `split_by`. All ranks must come here together, and
write the same. Where nothing is split, these functions do what their names say and no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn


class Splitting(Protocol):
    """How an engine holds a tensor whose shares lie on all ranks."""

    def is_split(self, tensor: Tensor) -> bool:
        """Whether this rank may hold a share of it only."""
        ...

    def shape_of(self, parameter: Tensor) -> torch.Size:
        """The whole shape of a split one."""
        ...

    def gather(self, parameters: Sequence[Tensor]) -> None:
        """Make split ones whole on every rank."""
        ...

    def release(self, parameters: Sequence[Tensor], written: bool) -> None:
        """Leave a rank its share again: of what is there now if it was `written`, or of what was there before."""
        ...

    def split_like(self, parameters: Sequence[nn.Parameter], like: Tensor) -> None:
        """Split whole ones as `like` is."""
        ...


_splitting: Splitting | None = None


def split_by(splitting: Splitting) -> None:
    """From now on split weights of this process are handled so."""
    global _splitting
    _splitting = splitting


def is_split(tensor: Tensor) -> bool:
    return _splitting is not None and _splitting.is_split(tensor)


def shape_of(parameter: Tensor) -> torch.Size:
    """Its whole shape; what a rank holds of a split one has none."""
    return _splitting.shape_of(parameter) if _splitting and is_split(parameter) else parameter.shape


@contextlib.contextmanager
def whole(tensors: Iterable[Tensor], written: bool = False) -> Iterator[None]:
    """The split ones of some tensors are whole for the length of the block; what was `written` into them is kept."""
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
    parameter = next(other.parameters(), None)
    if _splitting and parameter is not None and is_split(parameter):
        module.to(parameter.device)
        _splitting.split_like([p for p in module.parameters() if not is_split(p)], parameter)
