"""What a run folder holds, as people read it: a table, and one thing with who needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from rich.table import Table


class HoldingRecord(TypedDict):
    """One thing that a run folder holds, as `--json` has it."""

    kind: str
    place: str
    """Its folder, relative to the run folder."""
    bytes: int
    frees: int
    """Bytes that deleting it frees: without files that have hard links elsewhere."""
    changed: float
    """When something of it was last written, in seconds since 1970."""
    needed: bool
    """Whether it stays: for itself, or because something needs it."""
    needed_by: list[str]
    """Who needs it directly."""


def amount(size: float) -> str:
    """Bytes as `1.2 GB`."""
    for unit, each in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= each:
            return f"{size / each:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"


def holdings_table(held: Sequence[HoldingRecord]) -> Table:
    """One line a thing, with the first who needs it."""
    table = Table()
    table.add_column("thing", overflow="fold")
    for column in ("size", "frees"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("needed by", overflow="fold")
    for each in held:
        by = each["needed_by"]
        first = by[0] + (f" and {len(by) - 1} more" if len(by) > 1 else "") if by else ""
        said = first or ("" if each["needed"] else "nothing")
        table.add_row(each["place"], amount(each["bytes"]), amount(each["frees"]), said)
    return table
