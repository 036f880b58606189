"""Tables of HTML for results in a notebook: what `_repr_html_` of the API's objects returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

Cell = str | int | float | None


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table with a caption; numbers stand to the right, and every text is escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    caption = f"<caption style='text-align:left'>{escape(title)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Cell) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, str):
        return f"<td style='text-align:left'>{escape(value)}</td>"
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"
    return f"<td style='text-align:right'>{shown}</td>"
