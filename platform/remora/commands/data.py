"""`remora data …`: its verbs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from remora import catalog
from remora.catalog.fit import check_composition
from remora.commands.condense import condense
from remora.commands.convert import convert
from remora.commands.indexing import index
from remora.commands.samples import sections_of, show
from remora.data.check import NOTED, check_dataset
from remora.data.demo import build_demo
from remora.data.layout import count_differences, layout
from remora.data.locations import absolute
from remora.data.mixture import locate
from remora.data.prompt import Prompter
from remora.data.sources import picture_folder
from remora.errors import DataError
from remora.model.llm import load_tokenizer, pretrained_folder
from remora.reporting.datasets import print_layout
from remora.spec import MixtureEntry, Variant, load
from remora.stages import Store, resolve_stages


def data(args: argparse.Namespace) -> None:
    """One of the verbs of `remora data`."""
    console = Console(soft_wrap=args.what != "show")
    if args.what == "demo":
        demo(args, console)
    elif args.what == "check":
        check(args, console)
    elif args.what == "index":
        index(args, console)
    elif args.what == "condense":
        condense(args, console)
    elif args.what == "convert":
        with _bars(console) as progress:
            convert(args, console, partial(progress, args.target))
    else:
        with _bars(console) as progress:
            sections = sections_of(args, console, progress)
        show(args, console, sections)


def demo(args: argparse.Namespace, console: Console) -> None:
    """Write the demo's pictures, conversations and question files below <run folder>/data/demo."""
    counts = ", ".join(f"{name} {n:,}" for name, n in build(args, console)["counts"].items())
    console.print(f"{args.runs / 'data' / 'demo'}: {counts}", highlight=False)


def build(args: argparse.Namespace, console: Console) -> dict:
    """Build (or find) the demo's data, with a progress bar."""
    with _bars(console) as progress:
        return build_demo(args.runs / "data" / "demo", seed=getattr(args, "seed", 0), progress=progress)


@contextmanager
def _bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A function that draws (what, done, total), a bar for each what."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield progress


def check(args: argparse.Namespace, console: Console) -> None:
    """Read all of a dataset and say what is wrong with it.

    Raises:
        DataError: something is that stops a training run or teaches nothing.
    """
    named = catalog.dataset(args.target) if args.target in catalog.entries("datasets") else None
    if named:
        print_layout(console, layout(named, Store(args.runs).data))
    reports = []
    with _bars(console) as progress:
        for location, images, hint, prompter, length in _datasets(args, console):
            try:
                reports.append(check_dataset(location, images, prompter, length, partial(progress, location)))
            except DataError as e:
                raise DataError(f"{e}{hint}") from None
    for report in reports:
        console.print(
            f"[bold]{report.location}[/]: {report.records:,} records, {report.pictures:,} pictures", highlight=False
        )
        for line in count_differences(named, report.records, report.text_only, report.folders) if named else ():
            console.print(f"  {line}", style="bold red", highlight=False)
        for kind, count in report.counts.most_common():
            console.print(f"  {kind}: {count:,}" + (" (noted)" if kind in NOTED else ""), highlight=False)
            for example in report.examples[kind]:
                console.print(f"    {example}", markup=False, highlight=False)
    if args.json:
        args.json.write_text(json.dumps([r.as_json() for r in reports], indent=1) + "\n")
    if fatal := sum(r.fatal for r in reports):
        raise DataError(f"{fatal:,} problems would stop a training run or teach nothing; mend or remove those records")
    console.print("nothing that would stop a training run")


Dataset = tuple[str, str, str, Prompter | None, int | None]


def _datasets(args: argparse.Namespace, console: Console) -> Iterator[Dataset]:
    """What to check: one file, or each dataset of a variant's stages, rendered as the stage would."""
    if args.target in catalog.entries("datasets"):
        yield *locate(MixtureEntry(dataset=args.target), Store(args.runs).data), None, None
        return
    if not args.target.endswith((".yaml", ".yml")):
        location = absolute(str(args.target))
        images = absolute(args.images) if args.images else picture_folder(location)
        yield location, images, "; give the path of a dataset", None, None
        return
    variant, store = load(Variant, args.target), Store(args.runs)
    embeddings = check_composition(
        catalog.vision(variant.vision), catalog.connector(variant.connector), catalog.llm(variant.llm)
    )
    entry = catalog.llm(variant.llm)
    tokenizer = None
    if entry.loader == "scratch":
        console.print(f"lengths are not checked: {variant.llm} has no tokenizer before its first stage")
    else:
        tokenizer = load_tokenizer(pretrained_folder(variant.llm, entry, store.cache / "llm"))
    for stage in resolve_stages(variant):
        prompter = Prompter(catalog.template(stage.template), tokenizer, embeddings) if tokenizer else None
        for source in stage.mixture:
            path, images, hint = locate(source, store.data)
            yield path, images, hint, prompter, stage.max_length
