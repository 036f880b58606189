"""`remora train` and `remora search`.

Shown live, the work runs in a child (`--plain`) whose noise goes to a log file, and this process only draws. Under
`ray job submit`, or with `--plain`, it runs here and prints a line now and then.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.live import Live

from remora.cluster.search import result_file
from remora.commands.indexing import entries_of, prepare
from remora.evaluation.score import as_json
from remora.pipeline import measure
from remora.pipeline.executor import Executor
from remora.pipeline.variant import run_variant, status_file
from remora.processes import Child, remora_command
from remora.reporting.fitting import literal
from remora.reporting.progress import Progress, VariantProgress
from remora.reporting.results import search_lines, variant_lines
from remora.reporting.tables import live_table
from remora.spec import Variant
from remora.stages import Store, preflight, read_space, read_variant, variant_name, variants_of
from remora.tracking import Tracker
from remora.training import journal
from remora.training.meter import duration

UNTOLD = ("starting", "queued")
"""States of which no line is printed: Ray's start has lines of its own, and the rest of a search always waits."""
SINGLE = "single"
"""The status folder of variants that are trained on their own."""


def train(args: argparse.Namespace) -> None:
    """Train and measure one variant."""
    variant = read_variant(args.spec)
    prepare(entries_of([variant]), args, literal())
    if not args.plain and sys.stdout.isatty():
        progress = live(args, "train", SINGLE, [variant_name(variant)], literal())
        (ended,) = progress.read()
        say(*variant_lines(ended.scores, ended.bundle))
        return
    store = Store(args.runs)
    store.check_writable()
    look([variant], store)
    name = variant_name(variant)
    # MLflow is loaded (2 s) while Ray starts, which is mostly waiting.
    with plain_progress(args.runs, SINGLE, [name]), _tracker(args, SINGLE, name), executor_of(args) as executor:
        queued(args.runs, SINGLE, [name])
        outcome = run_variant(variant, args.runs, executor, SINGLE)
    say(*variant_lines({name: as_json(score) for name, score in outcome.scores.items()}, outcome.bundle))


def search(args: argparse.Namespace) -> None:
    """Train and measure every variant of a space, and register the best."""
    space = read_space(args.spec)
    variants = variants_of(space)
    names = [variant_name(v) for v in variants]
    prepare(entries_of(variants), args, literal())
    if not args.plain and sys.stdout.isatty():
        live(args, "search", space.name, names, literal())
        say(*search_lines(json.loads(result_file(args.runs, space.name).read_text())))
        return
    from remora.cluster.search import check

    check(space, Store(args.runs))
    look(variants, Store(args.runs))
    with (
        plain_progress(args.runs, space.name, names),
        _tracker(args, space.name, names[0]) as tracker,
        session(args),
    ):
        queued(args.runs, space.name, names)
        from remora.cluster.search import search as run_search

        result = run_search(space, args.runs, tracker)
    say(*search_lines(result.as_json()))


def _tracker(args: argparse.Namespace, search_name: str, name: str) -> Tracker:
    """What is wrong with MLflow becomes a note of that variant."""
    status = status_file(args.runs, search_name, name)

    def note(text: str) -> None:
        status.parent.mkdir(parents=True, exist_ok=True)
        journal.append(status, "noted", text=text)

    return Tracker(args.runs, args.tracking_uri, note=note)


def look(variants: Sequence[Variant], store: Store) -> None:
    """Find what is wrong before anything starts, and say what is worth knowing."""
    notes = list(preflight(variants, store).notes)
    for benchmark in dict.fromkeys(b for v in variants for b in v.benchmarks):
        notes += measure.notes(measure.prepare(benchmark, store))
    for note in notes:
        say(f"note: {note}")


@contextmanager
def executor_of(args: argparse.Namespace) -> Iterator[Executor]:
    """Who trains and answers: this machine with --local, else a Ray session."""
    if args.local:
        from remora.pipeline.local import Local

        yield Local()
        return
    from remora.cluster.executor import OnRay

    with session(args, dashboard=False):
        yield OnRay()


@contextmanager
def session(args: argparse.Namespace, dashboard: bool = True) -> Iterator[None]:
    """A Ray session whose workers know the run folder and the tracker; `dashboard` as `ray_session` has it."""
    from remora.cluster.session import ray_session

    env = {"REMORA_RUNS": str(args.runs)}
    if uri := args.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"):
        env["MLFLOW_TRACKING_URI"] = uri
    if own := os.environ.get("REMORA_CATALOG"):
        env["REMORA_CATALOG"] = str(Path(own).absolute())
    where = args.address or os.environ.get("RAY_ADDRESS")
    began = time.monotonic()
    say(f"joining the Ray cluster at {where}" if where else "starting Ray on this machine")
    with ray_session(args.address, env, dashboard):
        say(f"Ray is up after {duration(time.monotonic() - began)}")
        yield


def queued(runs: Path, search_name: str, names: list[str]) -> None:
    """Tell whoever follows that Ray is up and each variant waits for its turn."""
    for name in names:
        status = status_file(runs, search_name, name)
        status.parent.mkdir(parents=True, exist_ok=True)
        journal.append(status, "queued")


def say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def live(args: argparse.Namespace, verb: str, search_name: str, names: list[str], console: Console) -> Progress:
    """Run the verb in a child and draw its progress until it ends; what can be read of it then.

    Raises:
        RemoraError: the child's own.
    """
    options = ["--runs", str(args.runs), "--plain"]
    for flag in ("address", "tracking_uri"):
        if value := getattr(args, flag):
            options += [f"--{flag.replace('_', '-')}", value]
    if getattr(args, "local", False):
        options.append("--local")
    log = args.runs / "logs" / f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    since = time.time()
    child = Child(remora_command(verb, str(args.spec), *options), log)
    progress = Progress(args.runs, search_name, names, since)
    title = f"{args.spec.name} (log: {log})"
    try:
        draw(progress, title, console, lambda: child.running)
    finally:
        child.stop()  # with whoever says its last words, if Ray ended it
    if child.process.returncode:
        raise child.error()
    return progress


def draw(progress: Progress, title: str, console: Console, going: Callable[[], bool]) -> None:
    """Redraw the table while `going`, on a terminal in place, elsewhere a line whenever something changes."""
    if not console.is_terminal:
        with _printing(progress, _flushed(console.file)):
            while going():
                time.sleep(0.2)
        return
    told: set[str] = set()

    def redraw(view: Live) -> None:
        variants = progress.read()
        view.update(live_table(variants, title))
        for note in _new_notes(variants, told):
            view.console.print(note, markup=False, highlight=False, soft_wrap=True)

    with Live(live_table(progress.read(), title), console=console, refresh_per_second=4) as view:
        while going():
            time.sleep(0.5)
            redraw(view)
        redraw(view)  # what came in the last half second


def _new_notes(variants: Sequence[VariantProgress], told: set[str]) -> list[str]:
    """What people should know and were not told yet, each once for all variants that share a stage run."""
    new = [f"note: {note}" for note in dict.fromkeys(n for v in variants for n in v.notes) if note not in told]
    told.update(n for v in variants for n in v.notes)
    return new


@contextmanager
def plain_progress(runs: Path, search_name: str, names: list[str]) -> Iterator[None]:
    """Print a line whenever a variant's state changes, and every so often while it trains."""
    with _printing(Progress(runs, search_name, names, time.time()), _flushed(sys.stdout)):
        yield


def _flushed(file: IO[str]) -> Callable[[str], object]:
    """Writes that a pipe shows at once: Python keeps 8 kB back where nobody looks at a terminal."""

    def write(text: str) -> None:
        file.write(text)
        file.flush()

    return write


@contextmanager
def _printing(progress: Progress, write: Callable[[str], object], every: float = 10.0) -> Iterator[None]:
    stop = threading.Event()

    def follow() -> None:
        told: dict[str, str] = {}
        noted: set[str] = set()
        last = 0.0
        while True:
            ended = stop.wait(1.0)
            due = time.monotonic() - last > every
            variants = progress.read()
            for note in _new_notes(variants, noted):
                write(note + "\n")
            for v in variants:
                state = f"{v.state} {v.run}" if v.stage else v.state
                if v.accuracy:
                    state += "".join(f"; {name} {value:.3f}" for name, value in v.accuracy.items())
                step = f", step {v.step}/{v.steps}, loss {v.loss:.3f}" if v.loss is not None else ""
                if v.state in UNTOLD:
                    continue
                if told.get(v.name) != state or (step and due):
                    write(f"{v.name}: {state}{step}\n")
                    told[v.name] = state
            if due:
                last = time.monotonic()
            if ended:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
