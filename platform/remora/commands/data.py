"""`remora data demo`."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from remora.data.demo import build_demo


def data(args: argparse.Namespace) -> None:
    """Write the demo's pictures, conversations and question files below <run folder>/data/demo."""
    manifest = build(args, Console())
    counts = ", ".join(f"{name} {n:,}" for name, n in manifest["counts"].items())
    Console().print(f"{args.runs / 'data' / 'demo'}: {counts}", highlight=False)


def build(args: argparse.Namespace, console: Console) -> dict:
    """Build (or find) the demo's data, with a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, int] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)  # type: ignore[arg-type]

        return build_demo(args.runs / "data" / "demo", seed=getattr(args, "seed", 0), progress=progress)
