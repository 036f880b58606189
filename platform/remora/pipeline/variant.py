"""One variant from spec to scores: its stage runs (trained, waited for or reused), its bundle, its benchmarks.

The same function is a Ray Tune trial and `remora train`. What it does is told twice: to the tracker, and to a status
journal `<runs>/status/<search>/<variant>.jsonl` that the progress display follows.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from remora import tracking
from remora.evaluation.score import Score, as_json
from remora.inference import Bundle, write_bundle
from remora.pipeline import record
from remora.pipeline.executor import Executor, Task
from remora.pipeline.measure import measure, prepare
from remora.pipeline.record import open_tracker
from remora.spec import Variant
from remora.stages import StageRun, Store, path, variant_name
from remora.training import journal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a variant came to."""

    name: str
    bundle: Path
    run_id: str
    """The variant's MLflow run."""
    scores: dict[str, Score]
    stages: dict[str, str]
    """Stage run name -> trained | reused, in order."""


def status_file(runs: Path, search: str, variant: str) -> Path:
    return runs / "status" / search / f"{variant}.jsonl"


def tell_tracker(tracker: tracking.Tracker, status: Path) -> None:
    """Open MLflow before anybody writes to it. What is wrong with it is said, and no reason not to train."""
    open_tracker(tracker, "training goes on", lambda text: journal.append(status, "noted", text=text))


def run_variant(
    variant: Variant,
    runs: Path,
    executor: Executor,
    search: str,
    tracking_uri: str | None,
    parent: str | None = None,
    within: str = "alone",
) -> Outcome:
    """Train what is not trained yet, make the bundle, measure.

    Args:
        parent: The MLflow run of the search that it belongs to, and `within` that search's key: ids change, keys don't.

    Raises:
        RemoraError: what stopped it; stage runs that finished stay finished.
    """
    store = Store(runs)
    tracker = tracking.Tracker(runs, tracking_uri)
    name = variant_name(variant)
    status = status_file(runs, search, name)
    status.parent.mkdir(parents=True, exist_ok=True)
    lineage = path(variant, store.data)
    benchmarks = [prepare(b, store) for b in variant.benchmarks]  # what is missing is found before a step is taken
    last = lineage[-1]
    mlflow_run = record.start_variant(variant, lineage, tracker, parent, within)
    try:
        stages = _train_missing(lineage, store, executor, variant, tracker, mlflow_run, status)
        for run in lineage:
            # Linked, not repeated: a stage run that several variants share has one MLflow run.
            tracker.tag(mlflow_run, f"remora.stage.{run.stage.name}", record.recorded(run, store, variant, tracker))
        tracker.tag(mlflow_run, record.NOTE, record.variant_note(variant, lineage))  # its links have pages now
        bundle = runs / "bundles" / f"{name}-{last.id[:12]}"
        about = {"variant": variant.model_dump(mode="json"), "stages": [r.name for r in lineage]}
        made = Bundle(name, store.parts(lineage), last.stage.template, last.stage.aspect, variant.seed)
        write_bundle(bundle, made, about)

        journal.append(status, "evaluating")

        def asked(benchmark: str, done: int, of: int) -> None:
            journal.append(status, "asked", benchmark=benchmark, done=done, of=of)

        def scored(score: Score) -> None:
            journal.append(status, "scored", **as_json(score))
            tracker.metrics(mlflow_run, record.metrics_of(score))

        scores = {}
        for benchmark, prepared in zip(variant.benchmarks, benchmarks, strict=True):
            measured = measure(prepared, bundle, store, executor, variant.cluster, hear=asked)
            if measured.score:
                scores[benchmark] = measured.score
                scored(measured.score)
            tracker.artifacts(mlflow_run, measured.folder, f"benchmarks/{Path(benchmark).stem}")
    except BaseException as e:
        journal.append(status, "failed", error=str(e))
        tracker.finish(mlflow_run, "FAILED")
        raise
    journal.append(status, "finished", bundle=str(bundle))
    tracker.finish(mlflow_run)
    return Outcome(name, bundle, mlflow_run, scores, stages)


def _train_missing(
    lineage: Sequence[StageRun],
    store: Store,
    executor: Executor,
    variant: Variant,
    tracker: tracking.Tracker,
    parent: str,
    status: Path,
) -> dict[str, str]:
    """Train the stage runs that are not published and that nobody else trains: {name: trained | reused}.

    Leases are taken from the first stage run on. Paths are branches of a tree, so no two variants can wait for each
    other.
    """

    def note(text: str) -> None:
        log.warning(text)
        journal.append(status, "noted", text=text)

    missing = []
    with contextlib.ExitStack() as leases:
        for run in lineage:

            def say(state: str, run: StageRun = run) -> None:
                journal.append(status, "stage", run=run.name, stage=run.stage.name, state=state)

            def wait(holder: str, run: StageRun = run) -> None:
                say("waiting", run)
                note(f"{run.name}: waits for {holder}, which trains it")

            if not store.finished(run) and leases.enter_context(store.lease(run, wait, note)):
                missing.append(run)
            else:
                say("reused")
        if missing:
            _train(missing, store, executor, variant, tracker, parent, status)
    return {run.name: "trained" if run in missing else "reused" for run in lineage}


def _train(
    missing: Sequence[StageRun],
    store: Store,
    executor: Executor,
    variant: Variant,
    tracker: tracking.Tracker,
    parent: str,
    status: Path,
) -> None:
    tasks, mlflow_runs = [], {}
    with contextlib.ExitStack() as mirrors:
        for run in missing:
            job = store.prepare(run, variant.cluster)
            mlflow_runs[run] = record.start_stage(run, variant, tracker, parent)

            def hear(text: str, run: StageRun = run) -> None:
                journal.append(status, "noted", text=f"{run.name}: {text}")

            where = partial(store.journal, run)
            mirrors.enter_context(tracking.Mirror(tracker, mlflow_runs[run], where, hear=hear))
            tasks.append(Task(run.name, job, record.published_record(run, variant, mlflow_runs[run])))
        try:
            executor.train(tasks, variant.cluster, store.runs, status)
        except BaseException:
            for run in missing:
                if not store.finished(run):
                    tracker.finish(mlflow_runs[run], "FAILED")
            raise
    for run in missing:
        record.complete(run, mlflow_runs[run], store, tracker)
