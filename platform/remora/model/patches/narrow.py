"""Run the language model's last block only at supervised positions.

After the last attention, positions are independent, and the head only needs supervised ones. So the queries and
everything after attention (output projection, MLP, norms) run only for those; the other positions are zeros, which are
never used. Losses and gradients are the same. Modules are not replaced: hooks during a pass select the rows.
docs/training-speed.md has the figures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from remora.model.blocks import blocks_of
from remora.model.patches.attention import alike, probe, states, trying
from remora.model.patches.dropout import KeyedDropout

IN_ATTENTION = {"q_proj", "o_proj", "out_proj", "dense"}
IN_BLOCK = {"mlp", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"}
"""Names in transformers' models of the query projection and of what follows the scores. A fused projection of queries,
keys and values runs for all positions."""


def narrow(llm: PreTrainedModel) -> list[nn.Module]:
    """Modules of the model that may run for some positions only, inside `only`.

    All are tried together. If that changes a selected state, each is tried alone, and those that change one are left
    out.
    """
    named = candidates(llm)
    row = probe(llm, 8)
    rows = torch.tensor([1, 4, 7], device=row.device)
    with trying(llm):
        whole = states(llm, row)[:, rows]

        def same(some: list[nn.Module]) -> bool:
            try:
                with only(some, rows, row.shape[:2]):
                    return alike(states(llm, row)[:, rows], whole)
            except (RuntimeError, TypeError, ValueError, IndexError):  # one takes something else, or needs all
                return False

        return named if same(named) else [module for module in named if same([module])]


def candidates(llm: PreTrainedModel) -> list[nn.Module]:
    """What `narrow` tries, by the names in transformers' models."""
    blocks, tail = blocks_of(llm)
    last = blocks[-1]
    named = [m for name, m in last.named_children() if name in IN_BLOCK and not hasattr(m, "experts")]
    named += [m for child in last.children() for name, m in child.named_children() if name in IN_ATTENTION]
    return named + [m for m in tail if "norm" in type(m).__name__.lower()]


@contextlib.contextmanager
def only(modules: Sequence[nn.Module], rows: Tensor, shape: torch.Size) -> Iterator[None]:
    """During the block, run modules from `narrow` only for `rows` [S], flat indices into positions of `shape` [B, T].
    In outputs [B, T, ...] the other positions are zeros."""
    batch, tokens = shape
    inner = {m for module in modules for m in module.modules()}
    whole = [(m, m.keys, m.positions) for m in inner if isinstance(m, KeyedDropout) and m.keys is not None]
    for dropout, keys, positions in whole:
        of = keys[rows // tokens] if positions is None else keys.flatten()[rows]
        at = rows % tokens if positions is None else positions.flatten()[rows]
        dropout.keys, dropout.positions = of[None], at[None]

    def chosen(
        module: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, object]
    ) -> tuple[tuple[Tensor], dict[str, object]]:
        if options or len(inputs) != 1:
            raise TypeError(f"{type(module).__name__} takes more than states")
        return (inputs[0].flatten(0, 1).index_select(0, rows)[None],), {}

    def filled(module: nn.Module, inputs: object, out: Tensor) -> Tensor:
        full = out.new_zeros(batch * tokens, *out.shape[2:])
        return full.index_copy(0, rows, out[0]).view(batch, tokens, *out.shape[2:])

    hooks = [module.register_forward_pre_hook(chosen, with_kwargs=True) for module in modules]
    hooks += [module.register_forward_hook(filled) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for dropout, keys, positions in whole:
            dropout.keys, dropout.positions = keys, positions
