"""`remora data demo`, `remora data check` and `remora data condense`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from remora import catalog
from remora.catalog.fit import check_composition
from remora.commands.condense import condense
from remora.data.check import NOTED, check_dataset
from remora.data.demo import build_demo
from remora.data.mixture import locate
from remora.data.prompt import Prompter
from remora.errors import DataError
from remora.model.llm import load_tokenizer, pretrained_folder
from remora.spec import Variant, load
from remora.stages import Store, resolve_stages


def data(args: argparse.Namespace) -> None:
    """Write the demo's pictures, conversations and question files below <run folder>/data/demo; check; condense."""
    if args.what == "condense":
        condense(args)
        return
    if args.what == "check":
        check(args, Console(soft_wrap=True))
        return
    manifest = build(args, Console())
    counts = ", ".join(f"{name} {n:,}" for name, n in manifest["counts"].items())
    Console().print(f"{args.runs / 'data' / 'demo'}: {counts}", highlight=False)


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
    if args.target is None:
        raise DataError(
            "give a file (remora data check train.json) or a variant (remora data check jobs/demo-base.yaml)"
        )
    reports = []
    with _bars(console) as progress:
        for path, images, hint, prompter, length in _datasets(args, console):

            def opened(done: int, total: int, name: str = path.name) -> None:
                progress(f"{name}: pictures", done, total)

            reports.append(check_dataset(path, images, hint, prompter, length, opened))
    for report in reports:
        console.print(
            f"[bold]{report.file}[/]: {report.records:,} records, {report.pictures:,} pictures", highlight=False
        )
        for kind, count in report.counts.most_common():
            console.print(f"  {kind}: {count:,}" + (" (noted)" if kind in NOTED else ""), highlight=False)
            for example in report.examples[kind]:
                console.print(f"    {example}", markup=False, highlight=False)
    if args.json:
        args.json.write_text(json.dumps([r.as_json() for r in reports], indent=1) + "\n")
    if fatal := sum(r.fatal for r in reports):
        raise DataError(f"{fatal:,} problems would stop a training run or teach nothing; mend or remove those records")
    console.print("nothing that would stop a training run")


Dataset = tuple[Path, Path, str, Prompter | None, int | None]


def _datasets(args: argparse.Namespace, console: Console) -> Iterator[Dataset]:
    """What to check: one file, or each dataset of a variant's stages, rendered as the stage would."""
    if args.target.suffix not in (".yaml", ".yml"):
        yield args.target, args.images or args.target.parent, "; give a LLaVA JSON or JSONL file", None, None
        return
    variant, store = load(Variant, str(args.target)), Store(args.runs)
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
