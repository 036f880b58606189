"""One variant from spec to scores: its stage runs (trained, waited for or reused), its bundle, its benchmarks.

The same function is a Ray Tune trial and `remora train`. What it does is told twice: to the tracker, and to a status
journal `<runs>/status/<search>/<variant>.jsonl` that the progress display follows.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from remora import tracking
from remora.cluster.evaluate import measure, prepare
from remora.cluster.train import Task, train_stages
from remora.errors import TrackingError
from remora.evaluation.score import Score, as_json
from remora.inference import Bundle, write_bundle
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
    try:
        tracker.prepare()
    except TrackingError as e:
        journal.append(status, "noted", text=f"{e}; training goes on, its record waits in {tracker.runs}")


def run_variant(
    variant: Variant,
    runs: Path,
    search: str,
    tracking_uri: str | None,
    parent: str | None = None,
    within: str = "alone",
) -> Outcome:
    """Train what is not trained yet, then measure. Needs a Ray session.

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
    last = lineage[-1]
    mlflow_run = tracker.start(
        name,
        parent=parent,
        key=f"variant/{last.id}/{within}",
        tags={
            "remora.kind": "variant",
            "mlflow.source.name": "remora train" if within == "alone" else "remora search",
            "mlflow.note.content": _note(variant, lineage),
        },
        params=_variant_params(variant, lineage),
    )
    tracker.text(mlflow_run, variant.model_dump_json(indent=1), "variant.json")
    try:
        stages = _train_missing(lineage, store, variant, tracker, mlflow_run, status)
        for run in lineage:
            # Linked, not repeated: a stage run that several variants share has one MLflow run.
            tracker.tag(mlflow_run, f"remora.stage.{run.stage.name}", _recorded(run, store, variant, tracker))
        bundle = runs / "bundles" / f"{name}-{last.id[:12]}"
        about = {"variant": variant.model_dump(mode="json"), "stages": [r.name for r in lineage]}
        made = Bundle(name, store.parts(lineage), last.stage.template, last.stage.aspect, variant.seed)
        write_bundle(bundle, made, about)

        journal.append(status, "evaluating")

        def asked(benchmark: str, done: int, of: int) -> None:
            journal.append(status, "asked", benchmark=benchmark, done=done, of=of)

        def scored(score: Score) -> None:
            journal.append(status, "scored", **as_json(score))
            tracker.metrics(mlflow_run, metrics_of(score))

        scores = {}
        for benchmark in variant.benchmarks:
            measured = measure(prepare(benchmark, store), bundle, store, variant.cluster, hear=asked)
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


def _variant_params(variant: Variant, lineage: Sequence[StageRun]) -> dict[str, Any]:
    """What variants differ in: the parts, and of each stage its rates, its length and its data."""
    said: dict[str, Any] = {p: getattr(variant, p) for p in ("vision", "connector", "llm", "recipe", "seed")}
    for run in lineage:
        stage = run.stage.model_dump(mode="json", exclude_none=True)
        kept = {k: stage[k] for k in ("lr", "epochs", "steps", "batch", "schedule", "warmup") if k in stage}
        said[run.stage.name] = kept | {"data": _mixture(run)}
    return said


def _note(variant: Variant, lineage: Sequence[StageRun]) -> str:
    """What MLflow's page of the run says first."""
    parts = f"{variant.vision}, {variant.connector}, {variant.llm}"
    stages = [f"- {run.stage.name}: {_mixture(run)} (run `{run.name}`)" for run in lineage]
    return "\n".join([f"{variant_name(variant)}: {parts}, by recipe {variant.recipe}.", "", *stages])


def _mixture(run: StageRun) -> str:
    return ", ".join(f"{e.dataset or e.path} x{e.weight:g}" for e in run.stage.mixture)


def metrics_of(score: Score) -> dict[str, float]:
    """A score as MLflow metrics, `<benchmark>/<figure>`."""
    beside = {
        f"{score.metric}_low": score.ci[0],
        f"{score.metric}_high": score.ci[1],
        "blind": score.blind,
        "question_only": score.question_only,
        "n": float(score.n),
        "broken": float(score.broken),
    }
    figures = score.metrics | {k: v for k, v in beside.items() if v is not None}
    return {f"{score.benchmark}/{k}": v for k, v in figures.items()}


def _train_missing(
    lineage: Sequence[StageRun], store: Store, variant: Variant, tracker: tracking.Tracker, parent: str, status: Path
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
            _train(missing, store, variant, tracker, parent, status)
    return {run.name: "trained" if run in missing else "reused" for run in lineage}


def _train(
    missing: Sequence[StageRun], store: Store, variant: Variant, tracker: tracking.Tracker, parent: str, status: Path
) -> None:
    tasks, mlflow_runs = [], {}
    with contextlib.ExitStack() as mirrors:
        for run in missing:
            job = store.prepare(run, variant.cluster)
            mlflow_runs[run] = _start_record(run, variant, tracker, parent)

            def hear(text: str, run: StageRun = run) -> None:
                journal.append(status, "noted", text=f"{run.name}: {text}")

            where = partial(store.journal, run)
            mirrors.enter_context(tracking.Mirror(tracker, mlflow_runs[run], where, hear=hear))
            tasks.append(Task(run.name, job, _record(run, variant, mlflow_runs[run])))
        try:
            train_stages(tasks, variant.cluster, store.runs, status)
        except BaseException:
            for run in missing:
                if not store.finished(run):
                    tracker.finish(mlflow_runs[run], "FAILED")
            raise
    for run in missing:
        _complete_record(run, mlflow_runs[run], store, tracker)


def _start_record(run: StageRun, variant: Variant, tracker: tracking.Tracker, parent: str | None = None) -> str:
    """The stage run's MLflow run, made or taken up again."""
    mlflow_run = tracker.start(
        run.name,
        parent=parent,
        key=_key(run),
        tags={
            "remora.kind": "stage",
            "remora.identity": run.id,
            "remora.parent_stage": run.parent.name if run.parent else "",
            "mlflow.source.name": "remora",
            "mlflow.note.content": f"Stage {run.stage.name} of recipe {variant.recipe} on {_mixture(run)}.",
        },
        params=_params(run, variant),
    )
    tracker.text(mlflow_run, run.stage.model_dump_json(indent=1), "stage.json")
    return mlflow_run


def _recorded(run: StageRun, store: Store, variant: Variant, tracker: tracking.Tracker) -> str:
    """The MLflow run of a published stage run, complete: whoever trained it may have been killed before it wrote all.

    Every call may be repeated, so two variants that do this at the same time do no harm.
    """
    found = tracker.finished(_key(run))
    if found:
        return found
    mlflow_run = _start_record(run, variant, tracker)
    with tracking.Mirror(tracker, mlflow_run, lambda: store.journal(run)):
        pass  # leaving the block writes the steps that are not there yet
    _complete_record(run, mlflow_run, store, tracker)
    return mlflow_run


def _complete_record(run: StageRun, mlflow_run: str, store: Store, tracker: tracking.Tracker) -> None:
    tracker.text(mlflow_run, _tuning(store.journal(run)), "tuning.md")
    tracker.metrics(mlflow_run, _left_out(store.journal(run)))
    tracker.artifacts(mlflow_run, store.folder(run) / "parts", "parts")
    tracker.finish(mlflow_run)


def _tuning(path: Path) -> str:
    """What trained in a stage run, as a Markdown table."""
    lines = ["| part | mode | parameters | trained | rate |", "|---|---|---:|---:|---:|"]
    started = [e["table"] for e in journal.read(path) if e["event"] == "started" and "table" in e]
    for row in started[0] if started else []:  # a torn journal may have lost it
        rate = f"{row['lr']:g}" if row["lr"] else ""
        lines.append(f"| {row['part']} | {row['mode']} | {row['parameters']:,} | {row['trained']:,} | {rate} |")
    return "\n".join(lines) + "\n"


def _left_out(path: Path) -> dict[str, float]:
    """Records of each dataset, and those that were left out by kind: when it was indexed, or while a stage read it; and
    bad steps, by what was done about them."""
    events = list(journal.read(path))
    datasets = [e["data"] for e in events if e["event"] == "started" and "data" in e][-1:]
    met = {(e["entry"], e["sample"]): e["kind"] for e in events if e["event"] == "dropped" and "kind" in e}
    found = Counter(f"steps/{e['event']}" for e in events if e["event"] in ("left_out", "rolled_back"))
    for number, data in enumerate(datasets[0] if datasets else []):  # a torn journal may have lost it
        found[f"data/{data['dataset']}/records"] += data["records"]
        kinds = Counter(data["skipped"]) + Counter(kind for (entry, _), kind in met.items() if entry == number)
        for kind, n in kinds.items():
            found[f"data/{data['dataset']}/skipped.{kind}"] += n
    return dict(found)


def _key(run: StageRun) -> str:
    return f"stage/{run.id}"


def _record(run: StageRun, variant: Variant, mlflow_run: str) -> dict[str, Any]:
    return {
        "identity": run.id,
        "stage": run.stage.name,
        "parent": run.parent.name if run.parent else None,
        "parts": dict(run.parts),
        "trained": list(run.stage.tune.trained),
        "seed": run.seed,
        "mlflow_run": mlflow_run,
        "workers": variant.cluster.workers,
    }


def _params(run: StageRun, variant: Variant) -> Mapping[str, Any]:
    stage = run.stage.model_dump(mode="json", exclude={"name", "mixture"})
    cluster = variant.cluster.model_dump(mode="json")
    return {"stage": stage, "mixture": _mixture(run), "parts": dict(run.parts), "cluster": cluster}
