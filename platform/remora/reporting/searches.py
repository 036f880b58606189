"""Searches as people read them: those of a run folder, the rungs of one, what another rule would have made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

from rich.table import Table

from remora.pipeline.objectives import ParetoRecord
from remora.pipeline.search.board import Rungs
from remora.pipeline.search.replay import Replayed
from remora.reporting.results import SHOWN
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
    stages = dict.fromkeys(at.stage for at in board.arrivals)
    table = Table(title=f"Rungs of {', '.join(stages)}", title_justify="left")
    table.add_column("variant", overflow="fold")
    for column in ("rung", "value", "place"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("decided", no_wrap=True)
    decided = {(d.run, d.share): d for d in board.decided}
    for at in sorted(board.arrivals, key=lambda r: (-r.share, -r.merit)):
        made = decided.get((at.run, at.share))
        place = f"{made.place} of {made.among}" if made else ""
        value = f"{at.figure} {at.value:.4f}"
        rung = f"{at.share:.0%}" + (f" of {at.stage}" if len(stages) > 1 else "")
        table.add_row(at.variant, rung, value, place, made.decision if made else "")
    return table


def replayed_lines(found: Sequence[Replayed]) -> Iterator[str]:
    """What a rule would have trained, in steps of the last stage."""
    for r in found:
        share = f" ({r.steps / r.of:.0%})" if r.of else ""
        yield f"{r.rule}: {r.steps:,} of {r.of:,} steps of {r.stage}{share}; so far there were {r.so_far:,}"
        ends = sum(share == 1.0 for share in r.trained.values())
        best = f"the best is {r.finish[0]}" if r.finish else "which, is not known"
        yield f"  to the end: {ends:,} of {len(r.trained):,} variants; {best}"
        if r.unknown:
            shown = ", ".join(r.unknown[:SHOWN]) + (", …" if len(r.unknown) > SHOWN else "")
            yield f"  open: {len(r.unknown):,} would have gone on from where they were measured last ({shown})"
