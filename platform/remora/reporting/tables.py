"""Tables and lines for people, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from remora import catalog
from remora.evaluation.compare import Compared
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
        asked = v.asked if v.state == "evaluating" else ""
        table.add_row(
            v.name,
            Text(" ".join([v.state, v.stage or asked]).strip(), style=_STYLE.get(v.state, "")),
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
                *("" if s[k] is None else f"{s[k]:.3f}" for k in ("blind", "question_only")),
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


def published_table(model: str, figures: Mapping[str, float]) -> Table:
    """The headline figures of a model on published benchmarks, among those that papers report of others."""
    table = Table(title="Beside published figures", title_justify="left")
    table.add_column("model", no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right")
    known = catalog.entries("scores")
    rows: list[tuple[str, dict[str, float]]] = [(model, dict(figures))]
    rows += [(name, e.scores) for name, e in known.items()]  # type: ignore[attr-defined]
    first = next(iter(figures))
    for name, scores in sorted(rows, key=lambda row: -row[1].get(first, -1)):
        if not scores.keys() & figures.keys():
            continue
        cells = [f"{scores[b]:.1f}" if b in scores else "" for b in figures]
        table.add_row(name, *cells, style="bold" if name == model else "")
    return table


def compared_table(a: str, b: str, found: Mapping[str, Compared]) -> Table:
    """Each figure of both, their difference with its interval, and whether it is real."""
    table = Table(title=f"{a} against {b}, paired by picture", title_justify="left")
    table.add_column("benchmark", no_wrap=True)
    for column in ("A", "B", "A - B (95%)", "p", "adjusted", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("real?")
    for name, compared in found.items():
        for figure, d in compared.differences.items():
            real = compared.real(figure)
            table.add_row(
                f"{name} {figure}",
                f"{d.a:.2f}",
                f"{d.b:.2f}",
                f"{d.a - d.b:+.2f} ({d.low:+.2f} to {d.high:+.2f})",
                f"{d.p:.4f}",
                f"{compared.adjusted[figure]:.4f}",
                f"{compared.n:,}",
                ("yes: A" if d.a > d.b else "yes: B") if real else "no",
                style="bold" if real else "",
            )
    return table
