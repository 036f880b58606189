"""A plan's memory on a device as a table, its terms, and the plan as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from remora.planning import Plan

if TYPE_CHECKING:
    from remora.planning.serving import ServingFit
    from remora.planning.sizing import Sized

GIB = 1 << 30
SHOWN = 3
"""Compositions whose serving is shown."""


def print_sizes(found: Sequence[Sized], name: str, out: Console) -> None:
    """Print each stage's peak, then what the largest is made of."""
    if not found:
        out.print("Every stage run is trained: nothing takes memory.", highlight=False)
        return
    first = found[0].memory
    gpus = f"{first.ranks} x {name}" if first.ranks > 1 else name
    table = Table(title=f"Memory of a rank on {gpus}, {first.capacity / GIB:.1f} GiB", title_justify="left")
    for column in ("stage", "used by"):
        table.add_column(column, overflow="fold")
    for column in ("trained", "pass, tokens", "pictures", "GiB", "free"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in found:
        m = one.memory
        users = one.variants[0] if len(one.variants) == 1 else f"{len(one.variants)} variants"
        trained = sum(n for _, n in m.traced.parameters.values())
        figures = f"{m.largest_pass.tokens:,}", f"{m.largest_pass.pictures:,}", f"{m.total / GIB:.2f}"
        table.add_row(one.stage, users, _short(trained), *figures, f"{m.margin:.0%}" if m.fits else "does not fit")
    out.print(table)
    worst = max(found, key=lambda one: one.memory.total)
    table = Table(title=f"The largest, {worst.stage}: what it is made of", title_justify="left")
    table.add_column("term")
    for column in ("GiB", "share"):
        table.add_column(column, justify="right")
    for term in worst.memory.terms:
        if term.size >= worst.memory.total / 1000:
            table.add_row(term.name, f"{term.size / GIB:.2f}", f"{term.size / worst.memory.total:.1%}")
    out.print(table)
    counts = worst.memory.traced.parameters.items()
    parts = ", ".join(f"{part} {_short(n)} ({_short(t)} trained)" for part, (n, t) in counts)
    out.print(f"Parameters: {parts}. Checkpoints and parts on disk: up to {worst.disk / GIB:.1f} GiB.", highlight=False)
    if host := worst.memory.traced.host:
        out.print(f"In the host's memory, a rank: {host / GIB:.1f} GiB.", highlight=False)
    if any(one.memory.assumed for one in found):
        out.print("A sample is taken to have one picture, where its dataset is not here.", highlight=False)


def print_serving(found: Sequence[ServingFit], name: str, out: Console) -> None:
    """Print what answering takes, for the first compositions."""
    compositions = list(dict.fromkeys(one.composition for one in found))
    for composition in compositions[:SHOWN]:
        rows = [one for one in found if one.composition == composition]
        table = Table(title=f"Serving {composition} on {name}", title_justify="left")
        for column in ("weights", "GiB", "MiB a request", "requests that fit", "tokens/s of one", "of all"):
            table.add_column(column, justify="right" if column != "weights" else "left")
        for one in rows:
            speeds = ("–" if speed is None else f"{speed:,.0f}" for speed in (one.alone, one.together))
            cells = f"{one.size / GIB:.2f}", f"{one.cache / (1 << 20):,.0f}", f"{one.requests:,}"
            table.add_row(one.weights, *cells, *speeds)
        out.print(table)
    if (more := len(compositions) - SHOWN) > 0:
        out.print(f"{more} more compositions: --json.", highlight=False)
    if found:
        from remora.planning.serving import ANSWER, PROMPT

        out.print(
            f"A request is a picture of {found[0].picture:,} embeddings, {PROMPT} tokens of text and an answer of "
            f"{ANSWER}. Tokens/s are what the memory's bandwidth allows at most.",
            highlight=False,
            soft_wrap=True,
        )


def _short(count: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def plan_as_json(plan: Plan, device: str | None) -> dict[str, object]:
    """A plan as JSON: its stage runs, what training takes, and the memory of each kind of stage if it was asked for."""
    fields = ("run", "variants", "steps", "samples", "state", "exact", "stage", "operations", "taken")
    made: dict[str, object] = {"stage_runs": [{name: getattr(row, name) for name in fields} for row in plan.rows]}
    if plan.forecasts:
        rate = plan.forecasts.rate
        made["rate"] = {"flops": rate.overall, "source": rate.source}
        made["ways"] = [vars(way) for way in plan.forecasts.ways]
        made["over"] = list(plan.forecasts.over)
    made["permissions"] = {
        variant: {"use": found.use, "words": found.words, "forbids": list(found.forbids), "open": list(found.open)}
        for variant, found in plan.permissions.items()
    }
    made["record"] = [asdict(one) for one in plan.record]
    if device:
        made["device"] = device
        made["serving"] = [vars(one) for one in plan.serving]
        made["memory"] = [_sized_as_json(one) for one in plan.sizes]
    return made


def _sized_as_json(one: Sized) -> dict[str, object]:
    m = one.memory
    change = None
    if one.change:
        fit = one.change.memory
        change = {"cluster": dict(one.change.settings), "bytes": fit.total, "free": fit.margin}
    return {
        "stage": one.stage,
        "variants": list(one.variants),
        "ranks": m.ranks,
        "bytes": m.total,
        "capacity": m.capacity,
        "fits": m.fits,
        "free": m.margin,
        "largest": m.terms[0].name,
        "terms": {term.name: term.size for term in m.terms},
        "host_bytes": m.traced.host,
        "disk_bytes": one.disk,
        "parameters": {part: {"all": n, "trained": t} for part, (n, t) in m.traced.parameters.items()},
        "pass": vars(m.largest_pass),
        "pictures_assumed": m.assumed,
        "change": change,
    }
