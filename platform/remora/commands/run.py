"""`remora train` and `remora search`.

With a live view, the work runs in a child (`--plain`) whose output goes to a log file, and this process only draws.
Under `ray job submit`, or with `--plain`, it runs here and prints progress lines. From Python it runs here, silently.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from rich.console import Console

from remora.commands.cards import keep_cards
from remora.commands.indexes import entries_of, prepare
from remora.commands.options import SearchOptions, TrainOptions, Workplace
from remora.commands.report import keep_report, report_line
from remora.commands.saying import say, say_nothing
from remora.commands.spent import spent_line, warn_of_disk
from remora.evaluation.score import as_json
from remora.pipeline import measure
from remora.pipeline.command_records import LOG, at_work
from remora.pipeline.executor import Executor
from remora.pipeline.search.records import ResultRecord
from remora.pipeline.search.search import Here, Result, Room, check, result_file, search_key
from remora.pipeline.search.search import search as run_search
from remora.pipeline.variant import Outcome, run_variant, status_file
from remora.processes import Child, remora_command
from remora.reporting.bars import quiet
from remora.reporting.columns import literal, silent
from remora.reporting.following import draw, plain_progress
from remora.reporting.progress import SearchProgress
from remora.reporting.results import search_lines, variant_lines
from remora.runs import Preflight, Store, Survey, preflight, read_space, read_variant, survey, variant_name
from remora.runs.rungs import check_rungs
from remora.sharing import around
from remora.spec import Space, Variant
from remora.tracking import Tracker
from remora.training import journal
from remora.training.meter import duration

SINGLE = "single"
"""The status folder of variants trained without a search."""
STOPPED = "stopped; what was finished is kept; next: the same command again goes on from there"
INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as `remora.cli.main` has it."""


@contextmanager
def _stopped_is_said() -> Iterator[None]:
    """Say what a stop kept: Ctrl-C, `remora stop` or `remora searches stop`."""
    try:
        yield
    except KeyboardInterrupt:
        with suppress(BrokenPipeError):
            say(STOPPED)
        raise


@_stopped_is_said()
def train(options: TrainOptions) -> None:
    """Train and measure one variant, and print the result."""
    began = time.time()
    if options.plain or not sys.stdout.isatty():
        outcome = trained(options, aloud=True)
        scores = {name: as_json(score) for name, score in outcome.scores.items()}
        say(spent_line(began, options.runs, outcome.stages.items()), *variant_lines(scores, outcome.bundle))
        return
    variant = read_variant(options.spec, options.settings)
    prepare(entries_of([variant]), options.place, literal())
    progress = live(options.place, "train", options.spec, SINGLE, [variant_name(variant)], literal(), given(options))
    (ended,) = progress.read()
    say(spent_line(began, options.runs, ended.stages.items()), *variant_lines(ended.scores, ended.bundle))


def trained(options: TrainOptions, aloud: bool = False) -> Outcome:
    """Train and measure one variant in this process; `aloud` prints progress.

    Raises:
        RemoraError: what stopped it; finished stage runs are kept.
    """
    variant, store, place = read_variant(options.spec, options.settings), Store(options.runs), options.place
    tell, console = say if aloud else say_nothing, literal() if aloud else silent()
    prepare(entries_of([variant]), place, console)
    store.check_writable()
    if variant.cluster.auto:
        from remora.commands.machine import settled_variant

        variant = settled_variant(variant, place, console, tell)
    look([variant], store, tell)
    warn_of_disk(options.runs, tell)
    within_limits([variant], store, options)
    name = variant_name(variant)
    # MLflow is loaded (2 s) while Ray starts, which is mostly waiting.
    with (
        at_work(place.runs, "train", SINGLE, name, _words("train", options)),
        _shown(aloud, place, SINGLE, [name]),
        _tracker(place, SINGLE, name),
        executor_of(place, tell) as executor,
    ):
        queued(place.runs, SINGLE, [name])
        outcome = run_variant(variant, place.runs, executor, SINGLE)
        if problem := keep_cards(place.runs, [(outcome.bundle, outcome.key)]):
            tell(f"note: {problem}")
        return outcome


@_stopped_is_said()
def search(options: SearchOptions) -> None:
    """Train and measure every variant of a space, register the best, and print the result and where its report is."""
    began = time.time()
    if options.plain or not sys.stdout.isatty():
        result = searched(options, aloud=True)
        _say_found(result.as_json(), options.runs, began)
        return
    space = read_space(options.spec, options.smoke, options.settings)
    looked = survey(space)
    prepare(entries_of(looked.variants), options.place, literal())
    more = ["--smoke"] * options.smoke + given(options)
    live(options.place, "search", options.spec, space.name, known(space, looked), literal(), more)
    found = json.loads(result_file(options.runs, space.name).read_text())
    _say_found(found, options.runs, began)


def _say_found(found: ResultRecord, runs: Path, began: float) -> None:
    stages = [pair for each in (*found["variants"], *found["others"]) for pair in each["stages"].items()]
    say(spent_line(began, runs, stages), *search_lines(found), report_line(runs, found["search"], began))


def searched(options: SearchOptions, aloud: bool = False) -> Result:
    """Search a space in this process, on Ray or with --local without it; `aloud` prints progress.

    Raises:
        RemoraError: what stopped it; finished stage runs are kept.
    """
    space, store, place = read_space(options.spec, options.smoke, options.settings), Store(options.runs), options.place
    looked = survey(space)
    names = known(space, looked)
    tell, console = say if aloud else say_nothing, literal() if aloud else silent()
    for name, why in looked.pruned:
        tell(f"left out: {name}: {why}")
    prepare(entries_of(looked.variants), place, console)
    if space.cluster.auto:
        from remora.commands.machine import settled_space

        space = settled_space(space, looked.variants, place, console, tell)
        looked = survey(space)
    check(space, store)
    found = look(looked.variants, store, tell)
    warn_of_disk(options.runs, tell)
    within_limits(looked.variants, store, options, space)
    check_rungs(space.rule, found.paths, found.lengths)
    with (
        at_work(place.runs, "search", space.name, space.name, _words("search", options)),
        _shown(aloud, place, space.name, names),
        _tracker(place, space.name, names[0] if names else "") as tracker,
        _room(place, tell) as room,
    ):
        queued(place.runs, space.name, names)
        result = run_search(space, place.runs, tracker, room)
        cards = keep_cards(place.runs, [(o.bundle, o.key) for o in result.outcomes])
        for problem in filter(None, (keep_report(place.runs, space.name, search_key(space)), cards)):
            tell(f"note: {problem}")
        return result


def within_limits(
    variants: Sequence[Variant], store: Store, options: TrainOptions | SearchOptions, space: Space | None = None
) -> None:
    """Plan time and money, if there is a limit, as `remora plan` does.

    Raises:
        SpecError: what is left takes more than the limit.
    """
    if options.max_hours is None and options.max_cost is None:
        return
    from remora.planning import begun, forecasts_of, plan_of, rate_of, taken_up
    from remora.planning.limits import check_limits
    from remora.runs.around import around

    past = begun(store.runs, space) if space else None
    drawn = (taken_up(space, past) if space else None) or variants
    rate, plan = rate_of(store.runs, variants[0].cluster), plan_of(drawn, store)
    slots = (space.concurrent if space else None) or 1
    found = forecasts_of(
        space,
        plan,
        drawn,
        rate,
        slots,
        begun=past,
        around=around(store.runs),
    )
    check_limits(found, options.max_hours, options.max_cost)


def given(options: TrainOptions | SearchOptions) -> list[str]:
    """Settings and limits as options of the child that works."""
    limits = {"--max-hours": options.max_hours, "--max-cost": options.max_cost}
    words = [word for setting in options.settings for word in ("--set", setting)]
    return words + [word for flag, limit in limits.items() if limit is not None for word in (flag, str(limit))]


def _words(verb: str, options: TrainOptions | SearchOptions) -> list[str]:
    """The command without its run folder, as it can be given again in any folder."""
    spec = str(options.spec.absolute()) if options.spec.exists() else str(options.spec)
    smoke = ["--smoke"] if isinstance(options, SearchOptions) and options.smoke else []
    return [verb, spec, *flags(options.place)[2:], *smoke, *given(options)]


def known(space: Space, looked: Survey) -> list[str]:
    """The variants that a search will try, as far as they are known before it."""
    return [variant_name(v) for v in looked.variants] if space.sampler.kind == "grid" else []


@contextmanager
def _room(place: Workplace, tell: Callable[..., None]) -> Iterator[Room]:
    """Who performs a search's orders: this process with --local, else Ray Tune."""
    if place.local:
        from remora.pipeline.local import trainer_of

        yield Here(trainer_of)
        return
    from remora.cluster.search import OnTune

    with session(place, tell):
        yield OnTune()


def _shown(aloud: bool, place: Workplace, search_name: str, names: list[str]) -> AbstractContextManager[None]:
    return plain_progress(place.runs, search_name, names) if aloud else nullcontext()


def _tracker(place: Workplace, search_name: str, name: str) -> Tracker:
    """A tracker whose problems with MLflow become notes of that variant."""
    status = status_file(place.runs, search_name, name or search_name)

    def note(text: str) -> None:
        status.parent.mkdir(parents=True, exist_ok=True)
        journal.append(status, "noted", text=text)

    return Tracker(place.runs, place.tracking_uri, note=note)


def look(variants: Sequence[Variant], store: Store, tell: Callable[..., None]) -> Preflight:
    """Check everything before anything starts, and print notes."""
    found = preflight(variants, store)
    notes = list(found.notes)
    for benchmark in dict.fromkeys(b for v in variants for b in v.benchmarks):
        notes += measure.notes(measure.prepare(benchmark, store))
    for note in notes:
        tell(f"note: {note}")
    return found


@contextmanager
def executor_of(place: Workplace, tell: Callable[..., None] = say) -> Iterator[Executor]:
    """The executor: this machine with --local, else a Ray session."""
    if place.local:
        from remora.pipeline.local import Local

        yield Local()
        return
    from remora.cluster.executor import OnRay

    with session(place, tell, dashboard=False):
        yield OnRay()


@contextmanager
def session(place: Workplace, tell: Callable[..., None] = say, dashboard: bool = True) -> Iterator[None]:
    """A Ray session whose workers know the run folder and the tracker; `dashboard` as in `ray_session`."""
    from remora.cluster.session import check_one_node, ray_session

    env = {"REMORA_RUNS": str(place.runs)}
    if uri := place.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"):
        env["MLFLOW_TRACKING_URI"] = uri
    if own := os.environ.get("REMORA_CATALOG"):
        env["REMORA_CATALOG"] = str(Path(own).absolute())
    where = place.ray_cluster
    began = time.monotonic()
    tell = say_nothing if quiet() else tell
    tell(f"joining the Ray cluster at {where}" if where else "starting Ray on this machine")
    with ray_session(place.address, env, dashboard):
        tell(f"Ray is up after {duration(time.monotonic() - began)}")
        if shared := around(place.runs):
            check_one_node(shared.url, where)
        yield


def queued(runs: Path, search_name: str, names: list[str]) -> None:
    """Report in the status files that Ray is up and each variant is queued."""
    for name in names:
        status = status_file(runs, search_name, name)
        status.parent.mkdir(parents=True, exist_ok=True)
        journal.append(status, "queued")


def live(
    place: Workplace,
    verb: str,
    spec: Path,
    search_name: str,
    names: list[str],
    console: Console,
    more: Sequence[str] = (),
) -> SearchProgress:
    """Run the verb in a child and draw its progress until it ends; returns the final progress.

    `more` are flags of the verb.

    Raises:
        RemoraError: the child's own.
        KeyboardInterrupt: the child was asked to stop.
    """
    log = place.runs / "logs" / f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    since = time.time()
    child = Child(remora_command(verb, str(spec), *flags(place), *more, "--plain"), log, {LOG: str(log)})
    progress = SearchProgress(place.runs, search_name, names, since)
    title = f"{spec.name} (log: {log})"
    try:
        draw(progress, title, console, lambda: child.running)
    except KeyboardInterrupt:
        say("stopping; what was finished is kept, and a stage goes on from its last checkpoint; Ctrl-C again: at once")
        try:
            child.stop()
        except KeyboardInterrupt:
            child.stop(grace=0)
        raise
    finally:
        child.stop()  # also the watcher that prints its last line if Ray ended it
    if child.process.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if child.process.returncode:
        raise child.error()
    return progress


def flags(place: Workplace) -> list[str]:
    """The options that make a child work in the same place."""
    given = ["--runs", str(place.runs)]
    if place.address:
        given += ["--address", place.address]
    if place.tracking_uri:
        given += ["--tracking-uri", place.tracking_uri]
    return [*given, "--local"] if place.local else given
