"""Tables of searches: those of a run folder, the rungs of one, and what another rule would have made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from rich.table import Table

from remora.pipeline.objectives import ParetoRecord
from remora.pipeline.search.board import Rungs
from remora.pipeline.search.replay import Replayed
from remora.training.meter import duration


class SearchSummary(TypedDict):
    """A search in a few figures."""

    search: str
    state: str
    variants: int
    measured: int
    steps: int
    champion: str | None
    pareto: ParetoRecord | None
    stopped: str
    """The budget that ended it, if one did."""
    began: float | None
    """Seconds since 1970."""
    seconds: int


def listed(searches: Sequence[SearchSummary]) -> Table:
    """One line a search."""
    table = Table(title="Searches", title_justify="left")
    for column in ("search", "state", "champion"):
        table.add_column(column, overflow="fold")
    for column in ("variants", "measured", "steps", "work"):
        table.add_column(column, justify="right", no_wrap=True)
    for s in searches:
        figures = (f"{s['variants']:,}", f"{s['measured']:,}", f"{s['steps']:,}", duration(s["seconds"]))
        table.add_row(s["search"], s["state"], s["champion"] or "", *figures)
    return table


def rungs_table(board: Rungs) -> Table:
    """Who reached which rung, the furthest and best first, and what was decided there."""
    table = Table(title="Rungs", title_justify="left")
    table.add_column("variant", overflow="fold")
    for column in ("stage at", "value", "place"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("decided", no_wrap=True)
    decided = {(d.run, d.share): d for d in board.decided}
    for at in sorted(board.arrivals, key=lambda r: (-r.share, -r.merit)):
        made = decided.get((at.run, at.share))
        place = f"{made.place} of {made.among}" if made else ""
        value = f"{at.figure} {at.value:.4f}"
        table.add_row(at.variant, f"{at.share:.0%}", value, place, made.decision if made else "")
    return table


def replayed_table(found: Sequence[Replayed]) -> Table:
    """What a rule would have trained, in steps of the last stage."""
    table = Table(title="Under another rule", title_justify="left")
    table.add_column("rule", no_wrap=True)
    for column in ("variants", "steps", "of all", "to the end"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("best / open", overflow="fold")
    for r in found:
        best = f"{r.finish[0]}" if r.finish else "unknown"
        unknown = f"; never trained so far: {len(r.unknown)}" if r.unknown else ""
        share = f"{r.steps / r.of:.0%}" if r.of else ""
        table.add_row(r.rule, f"{len(r.trained):,}", f"{r.steps:,}", share, f"{len(r.finish):,}", best + unknown)
    return table
