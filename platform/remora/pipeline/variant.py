"""One variant from spec to scores: its stage runs (trained, awaited or reused), its bundle, its benchmarks.

`remora train` runs it whole, a search by its pieces (search/perform.py). It writes a record, from which MLflow is
brought up to date, and a status journal `<runs>/status/<search>/<variant>.jsonl`, which the display follows.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from remora import tracking
from remora.errors import Paused
from remora.evaluation.measured import Measured
from remora.evaluation.score import Score, as_json, scores_html
from remora.files import exclusive
from remora.inference import Bundle, write_bundle
from remora.notebook import table
from remora.pipeline import tracked_runs
from remora.pipeline.executor import Executor, Task
from remora.pipeline.feed import Feed
from remora.pipeline.measure import Prepared, measure, prepare
from remora.runs import StageRun, Store, path, variant_name
from remora.spec import Variant
from remora.training import journal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The result of a variant."""

    name: str
    bundle: Path
    key: str
    """The key of the variant's run (`tracking.Run`)."""
    scores: dict[str, Score]
    reports: dict[str, Path]
    """Benchmark -> the folder with its answers and its report."""
    stages: dict[str, str]
    """Stage run name -> trained | reused, in order."""

    def _repr_html_(self) -> str:
        """Its scores and stage runs, in a notebook."""
        stages = table("Stage runs", ("stage run", "this time"), self.stages.items())
        return scores_html(self.name, self.scores.values()) + stages


def status_file(runs: Path, search: str, variant: str) -> Path:
    return runs / "status" / search / f"{variant}.jsonl"


def run_variant(
    variant: Variant, runs: Path, executor: Executor, search: str, within: str = tracked_runs.ALONE
) -> Outcome:
    """Train missing stage runs, make the bundle, measure.

    Args:
        within: The key of the search that it belongs to.

    Raises:
        Paused: the stage that it was training was asked to stop.
        RemoraError: what stopped it; finished stage runs are kept.
    """
    store = Store(runs)
    name = variant_name(variant)
    status = status_file(runs, search, name)
    status.parent.mkdir(parents=True, exist_ok=True)
    lineage = path(variant, store.data)
    benchmarks = [prepare(b, store) for b in variant.benchmarks]  # missing files are reported before the first step
    try:
        with tracked_runs.variant_run(variant, lineage, runs, within) as tracked:
            stages = _train_missing(lineage, store, executor, variant, tracked.key, status)
            bundle = bundled(variant, lineage, store)
            journal.append(status, "evaluating")
            found = measured(variant, benchmarks, bundle, store, executor, tracked, status)
    except Paused as e:
        journal.append(status, "paused", step=e.step)
        raise
    except BaseException as e:
        journal.append(status, "failed", error=str(e))
        raise
    journal.append(status, "finished", bundle=str(bundle))
    return outcome(name, bundle, tracked.key, found, stages)


def outcome(name: str, bundle: Path, key: str, found: Mapping[str, Measured], stages: dict[str, str]) -> Outcome:
    scores = {benchmark: m.score for benchmark, m in found.items() if m.score}
    return Outcome(name, bundle, key, scores, {b: m.folder for b, m in found.items()}, stages)


def bundled(variant: Variant, lineage: tuple[StageRun, ...], store: Store) -> Path:
    """The model that a lineage makes, as a folder that can be asked and served."""
    last, name = lineage[-1], variant_name(variant)
    bundle = store.runs / "bundles" / f"{name}-{last.id[:12]}"
    about = {"variant": variant.model_dump(mode="json"), "stages": [r.name for r in lineage]}
    made = Bundle(name, store.parts(lineage), last.stage.template, last.stage.aspect, variant.seed)
    write_bundle(bundle, made, about)
    if store.shared:
        store.shared.send_missing(bundle)
    return bundle


def measured(
    variant: Variant,
    benchmarks: Sequence[Prepared],
    bundle: Path,
    store: Store,
    executor: Executor,
    tracked: tracking.Run,
    status: Path,
) -> dict[str, Measured]:
    """Ask it every benchmark; MLflow's run `tracked` gets the figures."""

    def asked(benchmark: str, done: int, of: int) -> None:
        journal.append(status, "asked", benchmark=benchmark, done=done, of=of)

    tracked.note(models=tracked_runs.bundle_models(bundle, store.runs, made=True))
    found = {}
    for benchmark, prepared in zip(variant.benchmarks, benchmarks, strict=True):
        one = found[benchmark] = measure(prepared, bundle, store, executor, variant.cluster, hear=asked)
        if score := one.score:
            journal.append(status, "scored", **as_json(score))
        tracked.note(
            metrics=tracked_runs.metrics_of(score) if score else None,
            inputs=tracked_runs.measured_inputs(one, prepared.data),
            files={f"benchmarks/{Path(benchmark).stem}": one.folder},
        )
    return found


@contextlib.contextmanager
def hold(run: StageRun, store: Store, status: Path) -> Iterator[bool]:
    """The lease to train a stage run, waited for; False if it was published meanwhile. `status` hears of both."""

    def say(state: str) -> None:
        journal.append(status, "stage", run=run.name, stage=run.stage.name, state=state)

    def note(text: str) -> None:
        log.warning(text)
        journal.append(status, "noted", text=text)

    def wait(holder: str) -> None:
        say("waiting")
        note(f"{run.name}: waits for {holder}, which trains it")

    with store.lease(run, wait, note) as mine:
        if not mine:
            say("reused")
        yield mine


@contextlib.contextmanager
def lacking(published: Sequence[StageRun], variant: Variant, store: Store, status: Path) -> Iterator[list[Task]]:
    """Tasks for the last validations that published stage runs lack, to be done within the block. Of commands that need
    the same validation one makes it, and the others wait."""
    with contextlib.ExitStack() as leases:
        tasks = []
        for run in published:
            if not store.lacks_validation(run):
                continue
            leases.enter_context(exclusive(store.validated_later(run.name).with_suffix(".lease")))
            if store.lacks_validation(run):
                tasks.append(Task(run.name, store.job_of_trained(run, variant.cluster), {}, status, trained=True))
        yield tasks
        for task in tasks:  # what its ranks were told
            shutil.rmtree(task.job.folder, ignore_errors=True)


def _train_missing(
    lineage: Sequence[StageRun],
    store: Store,
    executor: Executor,
    variant: Variant,
    parent: str,
    status: Path,
) -> dict[str, str]:
    """Train the stage runs that are not published and not being trained elsewhere: {name: trained | reused}.

    Leases are taken from the first stage run on. Paths are branches of a tree, so variants cannot deadlock.
    """
    missing, there = [], []
    with contextlib.ExitStack() as leases:
        for run in lineage:
            finished = store.finished(run)
            if finished:
                journal.append(status, "stage", run=run.name, stage=run.stage.name, state="reused")
            if not finished and leases.enter_context(hold(run, store, status)):
                missing.append(run)
            else:
                there.append(run)
                tracked_runs.stage_run(run, variant, store.runs).keep()
        unvalidated = leases.enter_context(lacking(there, variant, store, status))
        if missing or unvalidated:
            _train(missing, unvalidated, store, executor, variant, parent, status)
    return {run.name: "trained" if run in missing else "reused" for run in lineage}


def _train(
    missing: Sequence[StageRun],
    unvalidated: Sequence[Task],
    store: Store,
    executor: Executor,
    variant: Variant,
    parent: str,
    status: Path,
) -> None:
    with contextlib.ExitStack() as tracked:
        tasks = list(unvalidated)
        for run in missing:
            job = store.prepare(run, variant.cluster)
            tracked.enter_context(tracked_runs.stage_run(run, variant, store.runs, parent))
            tasks.append(Task(run.name, job, tracked_runs.published_record(run, variant), status))
        feed = tracked.enter_context(Feed.fresh(store.runs, tasks, closed=True))
        executor.train(feed, variant.cluster, store.runs)
