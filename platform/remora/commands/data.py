"""`remora data …`: its verbs."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from remora.files import disk_errors
from remora.reporting.bars import Hear, bars
from remora.reporting.fitting import literal


def data(args: argparse.Namespace) -> None:
    """One of the verbs of `remora data`. Each loads its own: torch takes 4 s, and two of six need it."""
    console = literal(soft_wrap=args.what != "show")
    if args.what == "demo":
        demo(args, console)
    elif args.what == "check":
        from remora.commands.check import check

        with _bars(console) as progress:
            check(args, console, progress)
    elif args.what == "index":
        from remora.commands.indexing import index

        index(args, console)
    elif args.what == "condense":
        from remora.commands.condense import condense

        condense(args, console)
    elif args.what == "convert":
        from remora.commands.convert import convert

        with _bars(console) as progress:
            convert(args, console, partial(progress, args.target))
    else:
        from remora.commands.samples import sections_of, show

        with _bars(console) as progress:
            sections = sections_of(args, console, progress)
        show(args, console, sections)


def demo(args: argparse.Namespace, console: Console) -> None:
    """Write the demo's pictures, conversations and question files below <run folder>/data/demo."""
    counts = ", ".join(f"{name} {n:,}" for name, n in build(args, console)["counts"].items())
    console.print(f"{args.runs / 'data' / 'demo'}: {counts}", highlight=False)


def build(args: argparse.Namespace, console: Console) -> dict:
    """Build (or find) the demo's data, with a progress bar."""
    from remora.demo import build_demo

    with disk_errors(args.runs), _bars(console) as progress:
        return build_demo(args.runs / "data" / "demo", seed=getattr(args, "seed", 0), progress=progress)


def _bars(console: Console) -> AbstractContextManager[Hear]:
    """A function that draws (what, done, total), a bar for each what."""
    return bars(
        console, TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )
