"""A plan as a table of its stage runs, and notes to read before starting it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from remora import catalog
from remora.planning import Forecasts, Plan, PlanRow
from remora.runs import union
from remora.runs.operations import TEXT
from remora.runs.predictions import CheckedPrediction, record_line
from remora.training.meter import duration

SHOWN = 3
"""Variants that a cell or a line names."""
WIDE = 100
"""Columns of a terminal from which on the table has room for all names and counts."""
STATES = {"finished": "is there", "to train": "to train", "no data": "its data is not here"}


def print_plan(plan: Plan, title: str, data: Path, out: Console) -> None:
    """Print a plan; `data` is the folder of datasets."""
    wide = out.width >= WIDE
    table = Table(title=f"{title}: stage runs", title_justify="left")
    # A wrapped name would lose the indentation that makes a tree of them.
    table.add_column("stage run", no_wrap=True)
    table.add_column("used by")
    for column in ("steps", *(["samples"] if wide else []), "FLOPs"):
        table.add_column(column, justify="right")
    table.add_column("state")
    for row, depth in _as_tree(plan):
        name = f"{'  ' * (depth - 1)}└ {row.run}" if depth else row.run
        users = _named(row.variants) if wide or len(row.variants) == 1 else f"{len(row.variants)} variants"
        counts = (f"{'' if row.exact else '~'}{n:,}" for n in ((row.steps, row.samples) if wide else (row.steps,)))
        state = f"{row.taken:,} steps are there" if row.taken and not row.finished else STATES[row.state]
        table.add_row(name, users, *counts, f"{row.operations:.1e}", state)
    out.print(table)
    shapes: dict[tuple[int, ...], list[str]] = {}
    for shape in plan.shapes:
        shapes.setdefault((shape.pixels, shape.tokens, shape.width, shape.embeddings), []).append(shape.variant)
    for (pixels, tokens, width, embeddings), variants in shapes.items():
        out.print(
            f"{_named(variants)}: a picture of {pixels} x {pixels} pixels is {tokens} tokens of "
            f"{width}, {embeddings} embeddings",
            highlight=False,
        )
    about = "" if all(row.exact for row in plan.rows) else "~"
    out.print(
        f"{plan.distinct} stage runs, {plan.to_train} to train ({about}{plan.samples:,} samples, "
        f"{plan.operations:.2e} FLOPs). "
        f"Without sharing: {plan.uses} stage runs, {about}{plan.samples_without_sharing:,} samples.",
        highlight=False,
    )
    if any(row.text_assumed for row in plan.rows):
        out.print(f"FLOPs: text of what is not downloaded is taken to be {TEXT:g} tokens a sample.", highlight=False)
    for name in plan.missing:
        step = catalog.dataset(name).next_step(name, data)
        told = f"{name} is not here, its size is the catalog's; next: {step}"
        out.print(told, highlight=False, soft_wrap=True)  # one line, so that the command can be copied
    _print_permissions(plan, out)
    for note in plan.notes:
        out.print(f"note: {note}", highlight=False, soft_wrap=True)


def _print_permissions(plan: Plan, out: Console) -> None:
    """What the models may be used for, and what of them says so."""
    same: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for variant, found in plan.permissions.items():
        same.setdefault((found.words, found.forbids or found.open), []).append(variant)
    for (words, why), variants in same.items():
        of = f" ({_named(why)})" if why else ""
        out.print(f"{_named(variants)}: {words}{of}", highlight=False, soft_wrap=True)


def _as_tree(plan: Plan) -> Iterator[tuple[PlanRow, int]]:
    """Every stage run with its depth, behind the one that it goes on from."""
    rows, below = {row.id: row for row in plan.rows}, dict[str | None, list[str]]()
    for run in union(plan.paths.values()).values():
        below.setdefault(run.parent.id if run.parent else None, []).append(run.id)
    left = [(key, 0) for key in reversed(below.get(None, []))]
    while left:
        key, depth = left.pop()
        yield rows[key], depth
        left += [(child, depth + 1) for child in reversed(below.get(key, []))]


def _named(variants: Sequence[str]) -> str:
    more = f" and {len(variants) - SHOWN} more" if len(variants) > SHOWN else ""
    return ", ".join(variants[:SHOWN]) + more


def print_forecasts(found: Forecasts, out: Console) -> None:
    """Print what the whole takes: with and without sharing, with and without stopping."""
    cluster, money = found.cluster, found.ways[0].cost is not None
    workers, gpus = cluster.least_workers, cluster.gpus_per_worker > 0
    if past := found.begun:
        states = {"trained to the end": past.trained, "paused": past.paused, "stopped": past.stopped}
        came = ", ".join(f"{count:,} {state}" for state, count in states.items() if count) or "none trained to the end"
        out.print(
            f"The search has begun, with {past.steps:,} steps: of {past.count:,} variant{'s' * (past.count != 1)} "
            f"{came}. What follows is what is left; each variant on its own is from the start.",
            highlight=False,
            soft_wrap=True,
        )
    table = Table(title="Time and cost of training", title_justify="left")
    table.add_column("", overflow="fold")
    columns = ["stage runs", "FLOPs", *(["GPU-hours"] if gpus else []), "makespan", *(["cost"] if money else [])]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for way in found.ways:
        what = "shared stage runs" if way.shared else "each variant on its own"
        cells = [f"{way.stage_runs:,.0f}", f"{way.operations:.2e}"]
        cells += [f"{way.gpu_hours:,.1f}"] if gpus else []
        cells += [duration(way.seconds)] + ([] if way.cost is None else [f"{way.cost:,.2f}"])
        table.add_row(f"{what}, {way.rule}" if way.rule != "none" else what, *cells)
    out.print(table)
    of = f"{workers} worker{'s' * (workers != 1)}"
    out.print(
        f"On {found.slots} group{'s' * (found.slots != 1)} of {of} at {found.rate.overall:.2g} FLOP/s a worker "
        f"({found.rate.source}). {_counted(found)}",
        highlight=False,
        soft_wrap=True,
    )
    for line in found.over:
        out.print(line, highlight=False, soft_wrap=True)
    if any(way.rule != "none" for way in found.ways):
        who = "Who is stopped of those that have still to reach a rung" if found.begun else "Who is stopped"
        why = "" if found.begun else ": nothing is known of the variants yet"
        out.print(f"{who} is drawn by chance{why}.", highlight=False)


def _counted(found: Forecasts) -> str:
    """What of the time that is no step is counted, and what is not."""
    start, asked = found.around.start is not None, found.around.benchmarks
    known = {"starting workers": start, "building, validating and saving": bool(found.rate.besides)}
    counted, not_ = ([what for what, there in known.items() if there == wanted] for wanted in (True, False))
    if found.unknown:
        not_.append(f"benchmarks that were not asked here yet ({_named(found.unknown)})")
    elif asked:
        counted.append("benchmarks")
    said = [f"counted as measured here: {', '.join(counted)}"] if counted else []
    said += [f"not counted: {', '.join(not_)}"] if not_ else []
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."


def print_record(found: Sequence[CheckedPrediction], out: Console) -> None:
    """Print how the last predictions came out, if there were any."""
    if line := record_line(found):
        out.print(f"{line[:1].upper()}{line[1:]}", highlight=False, soft_wrap=True)
