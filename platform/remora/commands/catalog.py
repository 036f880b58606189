"""`remora catalog`: what is known. A kind's own readers are loaded when it is asked for."""

from __future__ import annotations

import json

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from remora import catalog as known
from remora.commands.options import CatalogOptions
from remora.errors import UnknownName, nearest
from remora.reporting.fitting import literal


def catalog(options: CatalogOptions) -> None:
    """List the kinds, a kind's entries, or one entry; `check` says which parts make a model."""
    console = literal(soft_wrap=True)
    if options.kind == "check":
        check(options, console)
        return
    if options.kind is None:
        for kind in known.KINDS:
            rules = known.PAPERS if kind == "benchmarks" else ()
            console.print(
                Text.assemble((kind, "bold"), f": {', '.join((*rules, *known.entries(kind)))}"), highlight=False
            )
        return
    if options.kind == "benchmarks" and options.name in (None, *known.PAPERS):
        published_benchmarks(console, options)
        if options.name:
            return
    entries = known.entries(options.kind)
    if options.name is None and options.kind == "scores":
        from remora.reporting.scores import scores_lines

        console.print(scores_lines(), markup=False, highlight=False)
    elif options.name is None:
        for name, entry in entries.items():
            console.print(Text.assemble((name, "bold"), f"  {getattr(entry, 'source', '')}"), highlight=False)
    elif options.kind == "datasets":
        from remora.reporting.datasets import print_dataset
        from remora.stages import Store

        print_dataset(literal(), options.name, known.dataset(options.name), Store(options.runs).data)
    else:
        if options.kind == "benchmarks" and options.name not in entries:
            names = [*known.PAPERS, *entries]
            raise UnknownName(
                f"unknown benchmark {options.name!r}{nearest(options.name, names)}; known: {', '.join(names)}"
            )
        dumped = {options.name: known.GETTERS[options.kind](options.name).model_dump(mode="json", exclude_none=True)}
        console.print(yaml.safe_dump(dumped, sort_keys=False, width=110), end="", markup=False, highlight=False)


def published_benchmarks(console: Console, options: CatalogOptions) -> None:
    """The papers' benchmarks, whose rules are code and no entry: all of them, or one with where its files go."""
    from remora.evaluation.benchmarks import benchmark, folders, summary

    for name in [options.name] if options.name else known.PAPERS:
        console.print(Text.assemble((name, "bold"), f"  {summary(benchmark(name))}"), highlight=False)
    if options.name:
        console.print(f"headline figure: {benchmark(options.name).headline}", highlight=False)
        named = " or ".join(folders(options.name))
        console.print(
            f"its published files: {options.runs / 'data' / 'eval'}/{named} (docs/benchmarks.md)", highlight=False
        )
        console.print(f"next: remora evaluate MODEL --benchmarks {options.name}", highlight=False)


def check(options: CatalogOptions, console: Console) -> None:
    """Every encoder x connector x llm: the embeddings of a picture, or why they make no model."""
    from remora.data.outputs import writes
    from remora.planning import compositions

    found = compositions()
    if options.json:
        rows = [
            {"vision": v, "connector": c, "llm": m, "embeddings": n, "why_not": w}
            for (v, c, m), (n, w) in found.items()
        ]
        with writes(options.json, "--json"):
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
    table = Table(title="encoder x connector: embeddings a picture becomes, and the llms it is refused for")
    for column in ("encoder", "connector", "embeddings", "llms"):
        table.add_column(column, justify="right" if column == "embeddings" else "left", no_wrap=column != "llms")
    for vision in known.entries("vision"):
        for connector in known.entries("connectors"):
            answers = {m: found[vision, connector, m] for m in known.entries("llm")}
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
