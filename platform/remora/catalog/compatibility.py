"""Which encoders and connectors fit together, and how many embeddings a connector makes of an encoder's tokens.

This needs only catalog entries, so a spec is checked when it is read, before any module is built.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

from remora import catalog
from remora.catalog.entries import LLM, Connector, Vision
from remora.errors import SpecError

WORDS = 32
"""Minimum tokens for a question and a short answer beside a picture."""


def grid_side(tokens: int) -> int:
    """Side of the square grid of `tokens`.

    Raises:
        SpecError: `tokens` is not a square number.
    """
    side = isqrt(tokens)
    if side**2 != tokens:
        raise SpecError(f"this connector needs a square grid of tokens, and {tokens} is not a square")
    return side


def check_fit(entry: Connector, tokens_in: int, width: int, hidden: int) -> None:
    """Check that `entry` connects `tokens_in` tokens of `width` channels to embeddings of `hidden` channels.

    Raises:
        SpecError: it does not; the message lists connectors that do.
    """
    if problem := _width_problem(entry, width, hidden) or _grid_problem(entry, tokens_in):
        raise _refusal(problem, lambda e: not (_width_problem(e, width, hidden) or _grid_problem(e, tokens_in)))


def check_composition(vision: Vision, connector: Connector, llm: LLM) -> int:
    """Check that three parts make a model; returns the number of embeddings per picture.

    Raises:
        SpecError: they do not fit, or a picture leaves no room for words in the language model's context.
    """
    check_fit(connector, vision.tokens, vision.width, llm.hidden)
    embeddings, context = tokens_out(connector, vision.tokens), llm.context
    if embeddings + WORDS > context:
        raise SpecError(
            f"a picture becomes {embeddings} embeddings, which leaves no room for words in a context of {context}; "
            f"take a connector that makes fewer (resampler-128, pixel-shuffle-4), or a smaller image"
        )
    return embeddings


def check_width(entry: Connector, width: int, hidden: int) -> None:
    """The part of `check_fit` that does not need the number of tokens."""
    if problem := _width_problem(entry, width, hidden):
        raise _refusal(problem, lambda e: not _width_problem(e, width, hidden))


def tokens_out(entry: Connector, tokens_in: int) -> int:
    """How many embeddings the connector makes of a picture's tokens.

    Raises:
        SpecError: it does not support that many; the message lists connectors that do.
    """
    if problem := _grid_problem(entry, tokens_in):
        raise _refusal(problem, lambda e: not _grid_problem(e, tokens_in))
    if entry.queries:
        return entry.queries
    if entry.grid:
        return entry.grid**2
    return tokens_in // _stride(entry) ** 2


def _stride(entry: Connector) -> int:
    """Side of the square of tokens that becomes one embedding."""
    return 2 if entry.kind == "ldp" else entry.factor or 1


def _width_problem(entry: Connector, width: int, hidden: int) -> str | None:
    if entry.kind == "identity" and width != hidden:
        return f"identity passes the encoder's {width} channels on, and the language model reads {hidden}"
    return None


def _grid_problem(entry: Connector, tokens: int) -> str | None:
    """Why `entry` cannot take that many tokens, or None. Kinds without a grid take any number."""
    side = isqrt(tokens)
    if entry.kind not in ("ldp", "ldpv2", "pixel-shuffle"):
        return None
    if side**2 != tokens:
        return f"{entry.kind} reads a square grid, and {tokens} tokens are not a square"
    if entry.grid:
        # Windows would overlap and only repeat tokens.
        return (
            f"{entry.kind} averages to {entry.grid} x {entry.grid}, and {tokens} tokens are only {side} x {side}"
            if side < entry.grid
            else None
        )
    # With stride 2, torch makes 14 x 14 of an odd grid of 27 x 27, with padding in the outer tokens: neither the
    # quarter that ldp promises nor anything that was published.
    if side % (stride := _stride(entry)):
        return f"{entry.kind} makes one of {stride} x {stride} tokens, and {tokens} are {side} x {side}"
    return None


def _refusal(problem: str, fits: Callable[[Connector], bool]) -> SpecError:
    those = ", ".join(name for name, entry in catalog.listed(Connector).items() if fits(entry))
    return SpecError(f"{problem}; these fit: {those}; see: remora catalog connectors")
