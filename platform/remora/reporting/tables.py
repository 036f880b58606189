"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from remora import catalog
from remora.evaluation.choice import ChoiceRecord
from remora.evaluation.compare import Compared
from remora.pipeline.search.records import VariantRecord
from remora.reporting.columns import Blocks, Fitting, digits


def scores_table(variants: Sequence[VariantRecord], choice: ChoiceRecord, titles: Mapping[str, str]) -> Table:
    """Every variant on every benchmark: accuracy with its 95% interval, blind and question-only beside it.

    A star is for a variant that is better than every other on the benchmark that chose (`choice` is a
    `ChampionChoice.as_json`). Where others cannot be told from the best, all of them have the same sign.
    """
    top = {choice["best"], *choice["equals"]}
    sign = "★" if len(top) == 1 else "≈"
    # To fit 80 columns, a variant has its own line above its benchmarks.
    table = Table(title="Held-out accuracy", title_justify="left")
    table.add_column("variant, benchmark", no_wrap=True)
    for column in ("accuracy (95% interval)", "blind", "question\nonly", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    for variant in variants:
        crowned = variant["name"] in top
        style = "bold" if crowned and len(top) == 1 else ""
        table.add_row(f"{variant['name']} {sign}" if crowned else variant["name"], style=style)
        for i, (name, s) in enumerate(variant["benchmarks"].items()):
            table.add_row(
                f"  {titles[name]}",
                f"{s['accuracy']:.3f} ({s['ci'][0]:.3f}–{s['ci'][1]:.3f})",
                *("" if v is None else f"{v:.3f}" for v in (s["blind"], s["question_only"])),
                f"{s['n']:,}",
                style=style,
                end_section=i == len(variant["benchmarks"]) - 1,
            )
    if len(variants) > 1:
        where = titles[choice["benchmark"]]
        meaning = "better than every other" if len(top) == 1 else "the best, or not distinguishable from it,"
        table.caption, table.caption_justify = f"{sign} {meaning} on {where}", "left"
    return table


def stages_table(variants: Sequence[VariantRecord]) -> Table:
    """The stage runs, the variants that use them, and which one trained them."""
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


def published_table(model: str, figures: Mapping[str, float]) -> Blocks:
    """A model's headline figures on published benchmarks, beside those that papers report of others."""
    known: dict[str, Mapping[str, float]] = {name: e.merged for name, e in catalog.listed(catalog.Scores).items()}
    rows = [(model, figures), *known.items()]

    def draw(shown: Sequence[str]) -> Table:
        table = Table(title="Beside published figures", title_justify="left")
        table.add_column("model", overflow="fold")
        for name in shown:
            table.add_column(name, justify="right", no_wrap=True)
        for name, scores in sorted(rows, key=lambda row: -row[1].get(shown[0], -1)):
            if scores.keys() & set(shown):
                cells = [f"{scores[b]:.1f}" if b in scores else "" for b in shown]
                table.add_row(name, *cells, style="bold" if name == model else "")
        return table

    return Blocks(draw, list(figures))


def compared_table(a: str, b: str, found: Mapping[str, Compared]) -> Fitting:
    """Each figure of both, their difference with its interval, and whether it is real; none of these is dropped."""

    def draw(without: frozenset[str]) -> Table:
        table = Table(title=f"A: {a}\nB: {b}\npaired by picture", title_justify="left")
        table.add_column("benchmark", overflow="fold")
        for column in ("A", "B", "A - B (95%)", "p", "adjusted", "n"):
            if column not in without:
                heading = column.replace(" (", "\n(") if "one line" in without else column
                table.add_column(heading, justify="right", overflow="fold")
        table.add_column("real?", overflow="fold")
        for name, compared in found.items():
            for figure, d in compared.differences.items():
                real = compared.real(figure)
                n = digits(d.a - d.b, d.high - d.low)
                between = "\n" if "one line" in without else " "
                cells = {
                    "A": f"{d.a:.{n}f}",
                    "B": f"{d.b:.{n}f}",
                    "A - B (95%)": f"{d.a - d.b:+.{n}f}{between}({d.low:+.{n}f} to {d.high:+.{n}f})",
                    "p": _p(d.p),
                    "adjusted": _p(compared.adjusted[figure]),
                    "n": f"{compared.n:,}",
                }
                table.add_row(
                    f"{name}{between}{figure}",
                    *(cell for column, cell in cells.items() if column not in without),
                    ("yes: A" if d.a > d.b else "yes: B") if real else "no",
                    style="bold" if real else "",
                )
        return table

    return Fitting(draw, ("n", "one line", "p"))


def _p(p: float) -> str:
    """Format a p; a permutation test never gives 0."""
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"
