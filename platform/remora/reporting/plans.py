"""A plan as a table of its stage runs, and notes to read before starting it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from remora import catalog
from remora.planning import Plan

STATES = {"finished": "is there", "to train": "to train", "no data": "its data is not here"}


def print_plan(plan: Plan, title: str, data: Path, out: Console) -> None:
    """Print a plan; `data` is the folder of datasets."""
    table = Table(title=f"{title}: stage runs", title_justify="left")
    for column in ("stage run", "used by", "steps", "samples", "state"):
        table.add_column(column, justify="right" if column in ("steps", "samples") else "left")
    for row in plan.rows:
        counts = (f"{'' if row.exact else '~'}{n:,}" for n in (row.steps, row.samples))
        table.add_row(row.run, ", ".join(row.variants), *counts, STATES[row.state])
    out.print(table)
    for shape in plan.shapes:
        out.print(
            f"{shape.variant}: a picture of {shape.pixels} x {shape.pixels} pixels is {shape.tokens} tokens of "
            f"{shape.width}, {shape.embeddings} embeddings",
            highlight=False,
        )
    about = "" if all(row.exact for row in plan.rows) else "~"
    out.print(
        f"{plan.distinct} stage runs, {plan.to_train} to train ({about}{plan.samples:,} samples). "
        f"Without sharing: {plan.uses} stage runs, {about}{plan.samples_without_sharing:,} samples.",
        highlight=False,
    )
    for name in plan.missing:
        step = catalog.dataset(name).next_step(name, data)
        told = f"{name} is not here, its size is the catalog's; next: {step}"
        out.print(told, highlight=False, soft_wrap=True)  # one line, so that the command can be copied
    for note in plan.notes:
        out.print(f"note: {note}", highlight=False, soft_wrap=True)
