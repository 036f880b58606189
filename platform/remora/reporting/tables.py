"""Tables and lines for people, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from remora.reporting.progress import VariantProgress
from remora.training.meter import duration


def live_table(variants: Sequence[VariantProgress], title: str) -> Table:
    """Variant, stage, step, loss, tokens/s, ETA, and what it scored so far."""
    table = Table(title=title, title_justify="left", expand=False)
    for column in ("variant", "now", "", "step", "loss", "tokens/s", "ETA", "held-out accuracy"):
        table.add_column(
            column, justify="right" if column in ("step", "loss", "tokens/s", "ETA") else "left", no_wrap=True
        )
    for v in variants:
        training = v.state == "training"
        table.add_row(
            v.name,
            Text(f"{v.state} {v.stage}" if v.stage else v.state, style=_STYLE.get(v.state, "")),
            ProgressBar(total=max(1, v.steps), completed=v.step, width=16) if training and v.steps else "",
            f"{v.step}/{v.steps}" if training and v.steps else "",
            f"{v.loss:.3f}" if v.loss is not None else "",
            f"{v.tokens_per_second:,.0f}" if v.tokens_per_second else "",
            duration(v.seconds_left) if v.seconds_left is not None else "",
            ", ".join(f"{name} {value:.3f}" for name, value in v.accuracy.items()),
        )
    return table


_STYLE = {
    "training": "bold cyan",
    "finished": "green",
    "failed": "bold red",
    "waiting": "yellow",
    "evaluating": "magenta",
}


def scores_table(variants: Sequence[dict[str, Any]], champion: str, titles: dict[str, str]) -> Table:
    """Every variant on every benchmark: accuracy with its 95% interval, blind and question-only beside it."""
    # 80 columns hold all of it: a variant is a line of its own above its benchmarks.
    table = Table(title="Held-out accuracy", title_justify="left")
    table.add_column("variant, benchmark", no_wrap=True)
    for column in ("accuracy (95% interval)", "blind", "question\nonly", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    for variant in variants:
        crowned = variant["name"] == champion
        style = "bold" if crowned else ""
        table.add_row(variant["name"] + (" ★" if crowned else ""), style=style)
        for i, (name, s) in enumerate(variant["benchmarks"].items()):
            table.add_row(
                f"  {titles[name]}",
                f"{s['accuracy']:.3f} ({s['ci'][0]:.3f}–{s['ci'][1]:.3f})",
                f"{s['blind']:.3f}",
                f"{s['question_only']:.3f}",
                f"{s['n']:,}",
                style=style,
                end_section=i == len(variant["benchmarks"]) - 1,
            )
    return table


def stages_table(variants: Sequence[dict[str, Any]]) -> Table:
    """Which stage runs there are, which variants use them, and who trained them."""
    users: dict[str, list[str]] = {}
    trained: dict[str, str] = {}
    for variant in variants:
        for run, state in variant["stages"].items():
            users.setdefault(run, []).append(variant["name"])
            if state == "trained":
                trained[run] = variant["name"]
    table = Table(title="Stage runs", title_justify="left")
    for column in ("stage run", "used by", "this time"):
        table.add_column(column, no_wrap=column != "used by")
    for run, names in users.items():
        shared = f"{len(names)} variants" if len(names) > 1 else names[0]
        table.add_row(run, shared, f"trained by {trained[run]}" if run in trained else "was there")
    return table
