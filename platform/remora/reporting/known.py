"""Tables of the catalog: the papers' benchmarks, and which parts fit together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from remora import catalog
from remora.evaluation.benchmarks import benchmark, folders, summary
from remora.reporting.columns import print_named


def print_benchmarks(console: Console, only: str | None, data: Path) -> None:
    """Print the papers' benchmarks (code, not catalog entries): all of them, or one with its folder."""
    for name in [only] if only else catalog.PAPERS:
        print_named(console, name, f"  {summary(benchmark(name))}")
    if only:
        console.print(f"headline figure: {benchmark(only).headline}", highlight=False)
        named = " or ".join(folders(only))
        console.print(f"its published files: {data}/{named} (docs/benchmarks.md)", highlight=False)
        console.print(f"next: remora evaluate MODEL --benchmarks {only}", highlight=False)


def print_compositions(console: Console, found: Mapping[tuple[str, str, str], tuple[int | None, str]]) -> None:
    """Print `planning.compositions` as a table: encoder x connector, and the llms that fit."""
    table = Table(title="encoder x connector: embeddings per picture, and the llms it is refused for")
    for column in ("encoder", "connector", "embeddings", "llms"):
        table.add_column(column, justify="right" if column == "embeddings" else "left", no_wrap=column != "llms")
    for vision in catalog.entries("vision"):
        for connector in catalog.entries("connectors"):
            answers = {m: found[vision, connector, m] for m in catalog.entries("llm")}
            legal = [m for m, (n, _) in answers.items() if n]
            refused = {m: why.partition("; ")[0] for m, (n, why) in answers.items() if not n}
            embeddings = str(answers[legal[0]][0]) if legal else ""
            table.add_row(vision, connector, embeddings, _said(legal, refused))
    console.print(table)
    good = sum(n is not None for n, _ in found.values())
    console.print(f"{len(found)} compositions, {good} legal, {len(found) - good} not", highlight=False)


def _said(legal: list[str], refused: dict[str, str]) -> str:
    """The shorter of the two lists, and the first reason of each kind."""
    if not refused:
        return "all"
    why = "; ".join(dict.fromkeys(refused.values())) if len(legal) > len(refused) else next(iter(refused.values()))
    if not legal:
        return f"none: {why}"
    return f"all but {', '.join(refused)}: {why}" if len(legal) > len(refused) else f"only {', '.join(legal)}: {why}"
