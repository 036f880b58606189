"""`remora train` and `remora search`.

Shown live, the work runs in a child (`--plain`) whose noise goes to a log file, and this process only draws. Under
`ray job submit`, or with `--plain`, it runs here and prints a line now and then.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live

from remora.commands.indexing import entries_of, prepare
from remora.errors import ClusterError
from remora.processes import Child, remora_command
from remora.reporting.progress import Progress
from remora.reporting.tables import live_table
from remora.spec import Space, Variant, load
from remora.stages import Store, path, variant_name, variants_of
from remora.tracking import Tracker

SINGLE = "single"
"""The status folder of variants that are trained on their own."""


def train(args: argparse.Namespace) -> None:
    """Train and measure one variant."""
    variant = load(Variant, args.spec)
    prepare(entries_of([variant]), args, Console())
    if not args.plain and sys.stdout.isatty():
        live(args, "train", SINGLE, [variant_name(variant)], Console())
        return
    store = Store(args.runs)
    store.check_writable()
    path(variant, store.data)  # finds what is wrong before anything starts
    # MLflow is loaded (2 s) while Ray starts, which is mostly waiting.
    with ThreadPoolExecutor(1) as thread, plain_progress(args.runs, SINGLE, [variant_name(variant)]):
        tracked = thread.submit(Tracker(args.runs, args.tracking_uri).prepare)
        with session(args, dashboard=False):
            from remora.cluster.variant import run_variant

            tracked.result()
            outcome = run_variant(variant, args.runs, SINGLE, args.tracking_uri)
    for name, score in outcome.scores.items():
        figure = f"{score.metric} {score.accuracy:.4f} ({score.ci[0]:.4f} to {score.ci[1]:.4f})"
        baselines = (("blind", score.blind), ("question only", score.question_only))
        beside = [f"{what} {v:.4f}" for what, v in baselines if v is not None]
        say(", ".join([f"{name}: {figure}", *beside, f"n {score.n}"]))
    say(f"bundle: {outcome.bundle}")


def search(args: argparse.Namespace) -> None:
    """Train and measure every variant of a space, and register the best."""
    space = load(Space, args.spec)
    variants = variants_of(space)
    names = [variant_name(v) for v in variants]
    prepare(entries_of(variants), args, Console())
    if not args.plain and sys.stdout.isatty():
        live(args, "search", space.name, names, Console())
        return
    from remora.cluster.search import check

    check(space, Store(args.runs))  # finds what is wrong before anything starts
    with plain_progress(args.runs, space.name, names), session(args):
        from remora.cluster.search import search as run_search

        result = run_search(space, args.runs, args.tracking_uri)
    counts = result.stage_runs
    say(f"champion: {result.champion.name}, version {result.version} of {space.champion.register_as}")
    say(f"stage runs: {counts['planned']} planned, {counts['trained']} trained, {counts['reused']} reused")


@contextmanager
def session(args: argparse.Namespace, dashboard: bool = True) -> Iterator[None]:
    """A Ray session whose workers know the run folder and the tracker; `dashboard` as `ray_session` has it."""
    from remora.cluster.session import ray_session

    env = {"REMORA_RUNS": str(args.runs)}
    if uri := args.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"):
        env["MLFLOW_TRACKING_URI"] = uri
    if own := os.environ.get("REMORA_CATALOG"):
        env["REMORA_CATALOG"] = str(Path(own).absolute())
    with ray_session(args.address, env, dashboard):
        yield


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def live(args: argparse.Namespace, verb: str, search_name: str, names: list[str], console: Console) -> None:
    """Run the verb in a child and draw its progress until it ends.

    Raises:
        ClusterError: the child failed; its own one-line error.
    """
    options = ["--runs", str(args.runs), "--plain"]
    for flag in ("address", "tracking_uri"):
        if value := getattr(args, flag):
            options += [f"--{flag.replace('_', '-')}", value]
    log = args.runs / "logs" / f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    since = time.time()
    child = Child(remora_command(verb, str(args.spec), *options), log)
    progress = Progress(args.runs, search_name, names, since)
    title = f"{args.spec.name} (log: {log})"
    try:
        draw(progress, title, console, lambda: child.running)
        if child.process.returncode:
            raise ClusterError(child.error() + f" (log: {log})")
    finally:
        child.stop()


def draw(progress: Progress, title: str, console: Console, going: Callable[[], bool]) -> None:
    """Redraw the table while `going`, on a terminal in place, elsewhere a line whenever something changes."""
    if not console.is_terminal:
        with _printing(progress, console.file.write):
            while going():
                time.sleep(0.2)
        return
    with Live(live_table(progress.read(), title), console=console, refresh_per_second=4) as view:
        while going():
            time.sleep(0.5)
            view.update(live_table(progress.read(), title))


@contextmanager
def plain_progress(runs: Path, search_name: str, names: list[str]) -> Iterator[None]:
    """Print a line whenever a variant's state changes, and every so often while it trains."""
    with _printing(Progress(runs, search_name, names, time.time()), sys.stdout.write):
        yield


@contextmanager
def _printing(progress: Progress, write: Callable[[str], object], every: float = 10.0) -> Iterator[None]:
    stop = threading.Event()

    def follow() -> None:
        told: dict[str, str] = {}
        last = 0.0
        while True:
            ended = stop.wait(1.0)
            due = time.monotonic() - last > every
            for v in progress.read():
                state = f"{v.state} {v.run}" if v.stage else v.state
                if v.accuracy:
                    state += "".join(f"; {name} {value:.3f}" for name, value in v.accuracy.items())
                step = f", step {v.step}/{v.steps}, loss {v.loss:.3f}" if v.loss is not None else ""
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
