"""`remora plan` and `remora render`: what would happen."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import yaml
from rich.table import Table

from remora import catalog as known
from remora.commands.indexing import entries_of, prepare
from remora.planning import is_here, plan_of
from remora.reporting.fitting import console as wide_console
from remora.reporting.fitting import literal
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
