"""The language model's last block, only where there is a loss.

Behind the last attention no position looks at another, and the head reads supervised positions alone. What follows it
(the output projection, the MLP, the norms) and its queries therefore run for those positions; the others hold zeros
there, which nobody reads. Losses and gradients are those of the whole block. docs/training-speed.md has the figures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from remora.model.attention import alike, probe, states, trying
from remora.model.blocks import blocks_of
from remora.model.dropout import KeyedDropout
from remora.model.linear import LEAST, is_quick

IN_ATTENTION = {"q_proj", "o_proj", "out_proj", "dense"}
IN_BLOCK = {"mlp", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"}
"""How the models of transformers call what makes queries or stands behind the scores; a fused projection of queries,
keys and values stays whole."""


def narrow(llm: nn.Module) -> list[nn.Module]:
    """Prepare what of the model runs for some positions alone inside `only`; elsewhere it stays as it is.

    They are tried, and where together they change a state that is asked for, each alone: one that does is left out.
    """
    blocks, tail = blocks_of(llm)
    last = blocks[-1]
    named = [m for name, m in last.named_children() if name in IN_BLOCK and not hasattr(m, "experts")]
    named += [m for child in last.children() for name, m in child.named_children() if name in IN_ATTENTION]
    named += [m for m in tail if "norm" in type(m).__name__.lower()]
    for module in named:
        if not hasattr(module, "rows"):  # it was not prepared before
            module.rows, module.forward = None, partial(_forward, module, module.forward)  # type: ignore[assignment]
    row = probe(llm, 8)
    rows = torch.tensor([1, 4, 7], device=row.device)
    with trying(llm):
        whole = states(llm, row)[:, rows]

        def same(some: list[nn.Module]) -> bool:
            try:
                with only(some, rows, row.shape[1]):
                    return alike(states(llm, row)[:, rows], whole)
            except (RuntimeError, TypeError, ValueError, IndexError):  # one takes something else than states, or all
                return False

        return named if same(named) else [module for module in named if same([module])]


@contextlib.contextmanager
def only(modules: Sequence[nn.Module], rows: Tensor, tokens: int) -> Iterator[None]:
    """In the block the modules that `narrow` prepared run for `rows` [S] of a batch's positions, counted through
    [B, T] with T `tokens`."""
    inner = {m for module in modules for m in module.modules()}
    filled = F.pad(rows, (0, _coarse(len(rows)) - len(rows))) if any(map(is_quick, inner)) else rows
    whole = [(m, m.keys, m.positions) for m in inner if isinstance(m, KeyedDropout) and m.keys is not None]
    for dropout, keys, positions in whole:
        of = keys[filled // tokens] if positions is None else keys.flatten()[filled]
        at = filled % tokens if positions is None else positions.flatten()[filled]
        dropout.keys, dropout.positions = of[None], at[None]
    for module in modules:
        module.rows, module.filled = rows, filled
    try:
        yield
    finally:
        for module in modules:
            module.rows = None  # type: ignore[assignment]
        for dropout, keys, positions in whole:
            dropout.keys, dropout.positions = keys, positions


def _forward(module: nn.Module, whole_forward: Callable[..., Tensor], *inputs: Tensor, **options: Any) -> Tensor:
    """input [B, T, ...] -> [B, T, ...], zeros but for the rows that are asked for.

    Raises:
        TypeError: they are asked of a module that takes more than states.
    """
    rows = cast("Tensor | None", module.rows)
    if rows is None:
        return whole_forward(*inputs, **options)
    if options or len(inputs) != 1:
        raise TypeError(f"{type(module).__name__} takes more than states")
    (input,) = inputs
    out = whole_forward(input.flatten(0, 1).index_select(0, cast(Tensor, module.filled))[None])[0, : len(rows)]
    full = out.new_zeros(input.shape[0] * input.shape[1], *out.shape[1:])
    return full.index_copy(0, rows, out).view(*input.shape[:2], *out.shape[1:])


def _coarse(rows: int) -> int:
    """A power of two that holds them; the first position stands in for the rest. These rows are few, and kernels of
    every layer for as many numbers of rows as `rounded` has took more memory than what is left out."""
    return 1 << (max(rows, LEAST) - 1).bit_length()
