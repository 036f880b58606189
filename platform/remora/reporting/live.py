"""The table that a terminal shows while a search or a training goes on: a row a variant, on 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from remora.reporting.columns import Fitting
from remora.reporting.progress import VariantProgress
from remora.training.meter import duration

HEADINGS = {
    "variant": "variant",
    "stage": "stage",
    "step": "step",
    "loss": "loss",
    "validation": "held-\nout",
    "score": "score",
    "state": "state",
    "reused": "re-\nused",
    "ETA": "ETA",
    "tokens/s": "tokens/s",
}
TO_THE_LEFT = ("variant", "stage", "state")
WRAPPED = ("variant", "stage", "score")
NARROW = {"stage": 10, "score": 6}
"""Most columns of cells that wrap, where there is little room."""
LEAST = 16
"""Columns of a variant's name, at least."""
STYLES = {
    "training": "bold cyan",
    "finished": "green",
    "failed": "bold red",
    "waiting": "yellow",
    "measuring": "magenta",
    "paused": "dim",
    "stopped": "dim",
}
ORDER = ("training", "measuring", "failed", "finished", "paused", "stopped", "waiting", "queued", "starting")
"""Which rows are shown where not all have room."""


def live_table(variants: Sequence[VariantProgress], title: str, most: int = 1000) -> Fitting:
    """Variant, stage, step, losses, scores, state, reused stage runs, ETA; `most` rows, what is at work first."""
    shown = list(variants)
    if len(shown) > most > 0:
        kept = sorted(range(len(shown)), key=lambda i: (_rank(shown[i]), i))[:most]
        shown = [shown[i] for i in sorted(kept)]
    left = Counter(_state(v) for v in variants)
    for v in shown:
        left[_state(v)] -= 1

    def draw(without: frozenset[str]) -> Table:
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
        columns = [c for c in HEADINGS if c not in without]
        for column in columns:
            table.add_column(
                HEADINGS[column],
                justify="left" if column in TO_THE_LEFT else "right",
                overflow="fold",
                no_wrap=column not in WRAPPED,
                min_width=LEAST if column == "variant" else None,
                max_width=NARROW.get(column) if "wide cells" in without else None,
            )
        for v in shown:
            cells = _cells(v, "benchmarks" in without)
            table.add_row(*(cells[c] for c in columns))
        if len(shown) < len(variants):
            rest = ", ".join(f"{n} {state}" for state, n in left.items() if n)
            table.caption, table.caption_justify = f"and {len(variants) - len(shown)} more: {rest}", "left"
        return table

    return Fitting(draw, ("tokens/s", "benchmarks", "wide cells"))


def _rank(v: VariantProgress) -> int:
    state = _state(v)
    return ORDER.index(state) if state in ORDER else len(ORDER)


def _state(v: VariantProgress) -> str:
    return "measuring" if v.state == "evaluating" else v.state


def _cells(v: VariantProgress, figures_alone: bool) -> dict[str, str | Text]:
    asked, _, counted = v.asked.partition(" ")
    if v.state != "evaluating":
        asked, counted = v.stage, f"{v.step}/{v.steps}" if v.steps and v.state != "waiting" else ""
    scores = v.accuracy.items()
    state = _state(v)
    return {
        "variant": v.name,
        "stage": asked,
        "step": counted,
        "loss": f"{v.loss:.3f}" if v.loss is not None else "",
        "validation": f"{v.validation:.3f}" if v.validation is not None else "",
        "score": ", ".join(f"{figure:.3f}" if figures_alone else f"{name} {figure:.3f}" for name, figure in scores),
        "state": Text(state, style=STYLES.get(state, "")),
        "reused": str(v.reused or ""),
        "ETA": duration(v.seconds_left) if v.seconds_left is not None and v.state == "training" else "",
        "tokens/s": f"{v.tokens_per_second:,.0f}" if v.tokens_per_second else "",
    }
