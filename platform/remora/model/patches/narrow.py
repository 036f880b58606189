"""The language model's last block, only where there is a loss.

Behind the last attention no position looks at another, and the head reads supervised positions only. What follows it
(the output projection, the MLP, the norms) and its queries therefore run for those positions; the others hold zeros
there, which nobody reads. Losses and gradients are those of the whole block. Modules stay as they are: hooks on them,
for the length of a pass, choose the rows. docs/training-speed.md has the figures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from remora.model.blocks import blocks_of
from remora.model.patches.attention import alike, probe, states, trying
from remora.model.patches.dropout import KeyedDropout

IN_ATTENTION = {"q_proj", "o_proj", "out_proj", "dense"}
IN_BLOCK = {"mlp", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"}
"""How the models of transformers call what makes queries or stands behind the scores; a fused projection of queries,
keys and values stays whole."""


def narrow(llm: nn.Module) -> list[nn.Module]:
    """What of the model may run for some positions only, inside `only`.

    They are tried, and where together they change a state that is asked for, each by itself: one that does is left out.
    """
    blocks, tail = blocks_of(llm)
    last = blocks[-1]
    named = [m for name, m in last.named_children() if name in IN_BLOCK and not hasattr(m, "experts")]
    named += [m for child in last.children() for name, m in child.named_children() if name in IN_ATTENTION]
    named += [m for m in tail if "norm" in type(m).__name__.lower()]
    row = probe(llm, 8)
    rows = torch.tensor([1, 4, 7], device=row.device)
    with trying(llm):
        whole = states(llm, row)[:, rows]

        def same(some: list[nn.Module]) -> bool:
            try:
                with only(some, rows, row.shape[:2]):
                    return alike(states(llm, row)[:, rows], whole)
            except (RuntimeError, TypeError, ValueError, IndexError):  # one takes something else than states, or all
                return False

        return named if same(named) else [module for module in named if same([module])]


@contextlib.contextmanager
def only(modules: Sequence[nn.Module], rows: Tensor, shape: torch.Size) -> Iterator[None]:
    """In the block the modules, some of `narrow`'s, run for `rows` [S] of a batch's positions, counted through `shape`
    [B, T]; where they give [B, T, ...], the other positions are zeros."""
    batch, tokens = shape
    inner = {m for module in modules for m in module.modules()}
    whole = [(m, m.keys, m.positions) for m in inner if isinstance(m, KeyedDropout) and m.keys is not None]
    for dropout, keys, positions in whole:
        of = keys[rows // tokens] if positions is None else keys.flatten()[rows]
        at = rows % tokens if positions is None else positions.flatten()[rows]
        dropout.keys, dropout.positions = of[None], at[None]

    def chosen(module: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
        if options or len(inputs) != 1:
            raise TypeError(f"{type(module).__name__} takes more than states")
        return (inputs[0].flatten(0, 1).index_select(0, rows)[None],), {}

    def filled(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
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
