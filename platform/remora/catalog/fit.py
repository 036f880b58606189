"""What fits together: how many embeddings a connector makes of an encoder's tokens, and which pairs are refused.

Known from the entries, before any module is built, so a spec can be refused where it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

from remora import catalog
from remora.catalog.entries import LLM, Connector, Vision
from remora.errors import SpecError

WORDS = 32
"""Tokens that a question and a short answer need at the least beside a picture."""


def grid_side(tokens: int) -> int:
    """Side of the square grid of `tokens`.

    Raises:
        SpecError: they are no square.
    """
    side = isqrt(tokens)
    if side**2 != tokens:
        raise SpecError(f"tokens must be a square grid for this connector, and {tokens} are none")
    return side


def check_fit(entry: Connector, tokens_in: int, width: int, hidden: int) -> None:
    """Whether `entry` joins an encoder of `tokens_in` tokens of `width` channels to embeddings of `hidden`.

    Raises:
        SpecError: it does not; the message says which connectors do.
    """
    if problem := _width_problem(entry, width, hidden) or _grid_problem(entry, tokens_in):
        raise _refusal(problem, lambda e: not (_width_problem(e, width, hidden) or _grid_problem(e, tokens_in)))


def check_composition(vision: Vision, connector: Connector, llm: LLM) -> int:
    """Whether three parts make a model; returns how many embeddings it makes of a picture.

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
    """The part of `check_fit` that needs no number of tokens."""
    if problem := _width_problem(entry, width, hidden):
        raise _refusal(problem, lambda e: not _width_problem(e, width, hidden))


def tokens_out(entry: Connector, tokens_in: int) -> int:
    """How many embeddings the connector makes of a picture's tokens.

    Raises:
        SpecError: it cannot read that many; the message says which connectors can.
    """
    if problem := _grid_problem(entry, tokens_in):
        raise _refusal(problem, lambda e: not _grid_problem(e, tokens_in))
    if entry.queries:
        return entry.queries
    if entry.grid:
        return entry.grid**2
    return tokens_in // _stride(entry) ** 2


def _stride(entry: Connector) -> int:
    """Side of the squares of tokens that become one."""
    return 2 if entry.kind == "ldp" else entry.factor or 1


def _width_problem(entry: Connector, width: int, hidden: int) -> str | None:
    if entry.kind == "identity" and width != hidden:
        return f"identity passes the encoder's {width} channels on, and the language model reads {hidden}"
    return None


def _grid_problem(entry: Connector, tokens: int) -> str | None:
    """Why `entry` cannot read that many tokens, if it cannot. Kinds without a grid read any number."""
    side = isqrt(tokens)
    if entry.kind not in ("ldp", "ldpv2", "pixel-shuffle"):
        return None
    if side**2 != tokens:
        return f"{entry.kind} reads a square grid, and {tokens} tokens are none"
    if entry.grid:
        # Windows that repeat tokens would make more embeddings out of nothing.
        return (
            f"{entry.kind} averages to {entry.grid} x {entry.grid}, and {tokens} tokens are only {side} x {side}"
            if side < entry.grid
            else None
        )
    # torch would convolve an odd grid with stride 2 into 14 x 14 of 27 x 27, whose outer tokens see padding on both
    # sides: neither the quarter that ldp promises nor anything that was published.
    if side % (stride := _stride(entry)):
        return f"{entry.kind} makes one of {stride} x {stride} tokens, and {tokens} are {side} x {side}"
    return None


def _refusal(problem: str, fits: Callable[[Connector], bool]) -> SpecError:
    those = ", ".join(name for name, entry in catalog.entries("connectors").items() if fits(entry))  # type: ignore[arg-type]
    return SpecError(f"{problem}; these fit: {those}; see: remora catalog connectors")
