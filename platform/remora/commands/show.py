"""`remora plan`, `remora render` and `remora catalog`: what would happen, and what is known."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from remora import catalog as known
from remora.commands.indexing import entries_of, prepare
from remora.data.outputs import writes
from remora.errors import UnknownName, nearest
from remora.planning import compositions, is_here, plan_of
from remora.reporting.datasets import print_dataset
from remora.reporting.fitting import console as wide_console
from remora.reporting.fitting import literal
from remora.reporting.scores import scores_lines
from remora.spec import Stage, Variant
from remora.stages import Store, checked_stages, read_variants, variant_name

STATES = {"finished": "is there", "to train": "to train", "no data": "its data is not here"}


def plan(args: argparse.Namespace) -> None:
    """Every stage run of the spec: who uses it, and whether it is there already."""
    variants, store = read_variants(args.spec), Store(args.runs)
    for variant in variants:
        checked_stages(variant)
    prepare([e for e in entries_of(variants) if is_here(e, store.data)], args, literal())
    result = plan_of(variants, store)
    table = Table(title=f"{args.spec}: stage runs", title_justify="left")
    for column in ("stage run", "used by", "steps", "samples", "state"):
        table.add_column(column, justify="right" if column in ("steps", "samples") else "left")
    for row in result.rows:
        counts = (f"{'' if row.exact else '~'}{n:,}" for n in (row.steps, row.samples))
        table.add_row(row.run, ", ".join(row.variants), *counts, STATES[row.state])
    console = wide_console()
    console.print(table)
    for shape in result.shapes:
        console.print(
            f"{shape.variant}: a picture of {shape.pixels} x {shape.pixels} pixels is {shape.tokens} tokens of "
            f"{shape.width}, {shape.embeddings} embeddings",
            highlight=False,
        )
    about = "" if all(row.exact for row in result.rows) else "~"
    console.print(
        f"{result.distinct} stage runs, {result.to_train} to train ({about}{result.samples:,} samples). "
        f"Without sharing: {result.uses} stage runs, {about}{result.samples_without_sharing:,} samples.",
        highlight=False,
    )
    for name in result.missing:
        step = known.dataset(name).next_step(name, store.data)
        told = f"{name} is not here, its size is the catalog's; next: {step}"
        console.print(told, highlight=False, soft_wrap=True)  # the command is copied, so it stays one line
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def render(args: argparse.Namespace) -> None:
    """Every variant with its stages as they will run."""
    for number, variant in enumerate(read_variants(args.spec)):
        sys.stdout.write("---\n" * bool(number) + rendered(variant, checked_stages(variant)))


def rendered(variant: Variant, stages: Sequence[Stage]) -> str:
    """A variant with its stages, as YAML; a length that the context cuts is the one that acts, with the written one."""
    context = known.llm(variant.llm).context
    acting = [stage.model_copy(update={"max_length": stage.length(context)}) for stage in stages]
    shown = {
        "name": variant_name(variant),
        **variant.model_dump(mode="json", exclude={"name", "overrides"}),
        "stages": [s.model_dump(mode="json", exclude_none=True) for s in acting],
    }
    written = iter(stages)

    def told(line: re.Match[str]) -> str:
        stage = next(written)
        cut = stage.max_length > context
        why = f"  # {stage.max_length} in the recipe, and {variant.llm} has {context} positions"
        return line[0] + why * cut

    text = yaml.safe_dump(shown, sort_keys=False, width=120)
    return re.sub(r"^  max_length: \d+$", told, text, flags=re.MULTILINE)


def catalog(args: argparse.Namespace) -> None:
    """List the kinds, a kind's entries, or one entry; `check` says which parts make a model."""
    console = literal(soft_wrap=True)
    if args.kind == "check":
        check(args, console)
        return
    if args.kind is None:
        for kind in known.KINDS:
            rules = known.PAPERS if kind == "benchmarks" else ()
            console.print(
                Text.assemble((kind, "bold"), f": {', '.join((*rules, *known.entries(kind)))}"), highlight=False
            )
        return
    if args.kind == "benchmarks" and args.name in (None, *known.PAPERS):
        published_benchmarks(console, args)
        if args.name:
            return
    entries = known.entries(args.kind)
    if args.name is None and args.kind == "scores":
        console.print(scores_lines(), markup=False, highlight=False)
    elif args.name is None:
        for name, entry in entries.items():
            console.print(Text.assemble((name, "bold"), f"  {getattr(entry, 'source', '')}"), highlight=False)
    elif args.kind == "datasets":
        print_dataset(literal(), args.name, known.dataset(args.name), Store(args.runs).data)
    else:
        if args.kind == "benchmarks" and args.name not in entries:
            names = [*known.PAPERS, *entries]
            raise UnknownName(f"unknown benchmark {args.name!r}{nearest(args.name, names)}; known: {', '.join(names)}")
        dumped = {args.name: known.GETTERS[args.kind](args.name).model_dump(mode="json", exclude_none=True)}
        console.print(yaml.safe_dump(dumped, sort_keys=False, width=110), end="", markup=False, highlight=False)


def published_benchmarks(console: Console, args: argparse.Namespace) -> None:
    """The papers' benchmarks, whose rules are code and no entry: all of them, or one with where its files go."""
    from remora.evaluation.benchmarks import BENCHMARKS, FOLDERS, summary

    for name in [args.name] if args.name else known.PAPERS:
        console.print(Text.assemble((name, "bold"), f"  {summary(BENCHMARKS[name])}"), highlight=False)
    if args.name:
        folders = " or ".join(FOLDERS.get(args.name, (args.name,)))
        console.print(f"headline figure: {BENCHMARKS[args.name].headline}", highlight=False)
        console.print(
            f"its published files: {args.runs / 'data' / 'eval'}/{folders} (docs/benchmarks.md)", highlight=False
        )
        console.print(f"next: remora evaluate MODEL --benchmarks {args.name}", highlight=False)


def check(args: argparse.Namespace, console: Console) -> None:
    """Every encoder x connector x llm: the embeddings of a picture, or why they make no model."""
    found = compositions()
    if args.json:
        rows = [
            {"vision": v, "connector": c, "llm": m, "embeddings": n, "why_not": w}
            for (v, c, m), (n, w) in found.items()
        ]
        with writes(args.json, "--json"):
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
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
