"""`remora evaluate`: a model on the papers' benchmarks and on one's own."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from remora import catalog
from remora.commands.run import executor_of
from remora.commands.score import show
from remora.data.outputs import writes
from remora.errors import DataError, SpecError
from remora.evaluation.measured import Measured
from remora.files import write_json
from remora.inference.bundle import bundle_name, check_bundle, weights_digest
from remora.pipeline.evaluation import evaluate as run
from remora.pipeline.measure import notes, prepare
from remora.reporting.fitting import literal
from remora.reporting.tables import published_table
from remora.spec import Cluster, validate
from remora.stages import Store
from remora.tracking import find_model


def evaluate(args: argparse.Namespace) -> None:
    """Ask a model every question of some benchmarks, score its answers, and keep both in MLflow."""
    store = Store(args.runs)
    names = [n for given in args.benchmarks for n in given.split(",") if n]
    if names == ["all"]:
        names = list(catalog.PAPERS)
    if not names:
        known = ", ".join(catalog.PAPERS)
        raise DataError(f"--benchmarks names none; there are: {known}; see: remora catalog benchmarks")
    model = find_model(args.model, args.runs, args.tracking_uri)
    bundle = model.folder
    if args.local and args.workers != 1:
        raise SpecError(f"--local answers in this process; --workers {args.workers} is for Ray; leave out one of them")
    store.check_writable()
    # What is missing or torn is found before a cluster is started.
    check_bundle(bundle)
    prepared = [prepare(name, store, args.data) for name in dict.fromkeys(names)]
    console = literal(stderr=args.json)
    console.print(f"model: {model.shown}, weights {weights_digest(bundle)[:12]}", highlight=False, soft_wrap=True)

    def wait(holder: str) -> None:
        console.print(f"waiting for {holder}: it asks this model the same questions", highlight=False)

    def note(text: str) -> None:
        console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)

    for text in (text for each in prepared for text in notes(each)):
        note(text)
    asked = {"workers": args.workers, "gpus_per_worker": args.gpus_per_worker}
    cluster = validate(Cluster, asked, "remora evaluate")
    # Ray says on stdout what becomes of its workers; there is JSON alone.
    aside = contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext()
    with aside, executor_of(args) as executor, _bar(console) as hear:
        found = run(bundle, prepared, store, executor, cluster, args.tracking_uri, args.protocol, args.limit,
                    args.judge_model, hear, wait, note)  # fmt: skip
    reports = {o.benchmark: o.report for o in found if o.report}
    if args.out:
        for name, report in reports.items():
            with writes(args.out, "--out"):
                write_json(args.out / f"{name}.json", report.as_json())
    if args.json:
        sys.stdout.write(json.dumps({name: r.as_json() for name, r in reports.items()}, indent=1) + "\n")
    for each in found:
        _say(each, console, args.json)
    beside = {o.benchmark: o.score.accuracy for o in found if o.score and o.benchmark in catalog.PAPERS}
    if beside and not args.json:
        console.print(published_table(bundle_name(bundle), beside))


def _say(found: Measured, console: Console, briefly: bool) -> None:
    """The figures of a benchmark, or why there are none, and where everything lies."""
    if found.unscored:
        console.print(f"{found.benchmark}: no score here: {found.unscored}", highlight=False, soft_wrap=True)
    elif found.report and not briefly:
        show(found.report, console)
    for upload in found.uploads:
        console.print(f"to submit: {upload}", highlight=False, soft_wrap=True)
    console.print(f"answers: {found.folder}", highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar a benchmark on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def hear(name: str, done: int, of: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=of)
            progress.update(tasks[name], completed=done)

        yield hear


def _lines(console: Console) -> Callable[[str, int, int], None]:
    told: dict[str, int] = {}

    def hear(name: str, done: int, of: int) -> None:
        if done == of or done >= told.get(name, -of) + of // 10:
            told[name] = done
            console.print(f"{name}: {done:,} of {of:,} answers", highlight=False)

    return hear
