"""What MLflow holds of a variant and of its stage runs, and how a person gets from one to the other.

A stage run that several variants share has one MLflow run. Every call may be repeated: whoever trained a stage run may
have been killed before it wrote all, and the next command completes the record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from remora import catalog, tracking
from remora.data.index import Dataset
from remora.errors import TrackingError
from remora.evaluation.score import Score
from remora.spec import Variant
from remora.stages import StageRun, Store, variant_name
from remora.training import journal

NOTE = "mlflow.note.content"
"""The tag that MLflow's page of a run shows first, as Markdown."""


def open_tracker(tracker: tracking.Tracker, otherwise: str, note: Callable[[str], None]) -> None:
    """Open MLflow before anybody writes to it. What is wrong with it is noted, and what happens `otherwise`."""
    try:
        tracker.prepare()
    except TrackingError as e:
        note(f"{e}; {otherwise}, the record waits in {tracker.runs}")


def start_variant(
    variant: Variant, lineage: Sequence[StageRun], tracker: tracking.Tracker, parent: str | None, within: str
) -> str:
    """The variant's MLflow run, made or taken up again."""
    mlflow_run = tracker.start(
        variant_name(variant),
        parent=parent,
        key=variant_key(lineage, within),
        tags={
            "remora.kind": "variant",
            "mlflow.source.name": "remora train" if within == "alone" else "remora search",
            NOTE: variant_note(variant, lineage),
        },
        params=_variant_params(variant, lineage),
    )
    tracker.text(mlflow_run, variant.model_dump_json(indent=1), "variant.json")
    tracker.inputs(mlflow_run, _inputs(lineage))
    return mlflow_run


def _variant_params(variant: Variant, lineage: Sequence[StageRun]) -> dict[str, Any]:
    """What variants differ in: the parts, and of each stage its rates, its length and its data."""
    said: dict[str, Any] = {p: getattr(variant, p) for p in ("vision", "connector", "llm", "recipe", "seed")}
    for run in lineage:
        stage = run.stage.model_dump(mode="json", exclude_none=True)
        kept = {k: stage[k] for k in ("lr", "epochs", "steps", "batch", "schedule", "warmup") if k in stage}
        said[run.stage.name] = kept | {"data": _mixture(run)}
    return said


def variant_note(variant: Variant, lineage: Sequence[StageRun]) -> str:
    """What MLflow's page of the run says first: with a link to each stage run that has a page by then."""
    parts = f"{variant.vision}, {variant.connector}, {variant.llm}"
    stages = [f"- {run.stage.name}: {_mixture(run)} ({tracking.link(run.name, stage_key(run))})" for run in lineage]
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


def start_stage(run: StageRun, variant: Variant, tracker: tracking.Tracker, parent: str | None = None) -> str:
    """The stage run's MLflow run, made or taken up again."""
    mlflow_run = tracker.start(
        run.name,
        parent=parent,
        key=stage_key(run),
        tags={
            "remora.kind": "stage",
            "remora.identity": run.id,
            "remora.parent_stage": run.parent.name if run.parent else "",
            "mlflow.source.name": "remora",
            NOTE: _stage_note(run, variant),
        },
        params=_params(run, variant),
    )
    tracker.text(mlflow_run, run.stage.model_dump_json(indent=1), "stage.json")
    tracker.inputs(mlflow_run, _inputs([run]))
    return mlflow_run


def _stage_note(run: StageRun, variant: Variant) -> str:
    said = f"Stage {run.stage.name} of recipe {variant.recipe} on {_mixture(run)}"
    return said + (f", after {tracking.link(run.parent.name, stage_key(run.parent))}." if run.parent else ".")


def _inputs(lineage: Iterable[StageRun]) -> list[tracking.Input]:
    """The datasets that stage runs read, each once, as their indexes know them."""
    found = {}
    for run in lineage:
        for entry, folder in zip(run.stage.mixture, run.datasets, strict=False):  # not known of a run without its data
            dataset = Dataset(folder, entry.skip)
            place = entry.path or catalog.dataset(entry.dataset or "").path
            name = entry.dataset or place.rstrip("/").rpartition("/")[2]
            counts = {"records": dataset.records, "skipped": dataset.skipped}
            found[name, dataset.digest] = tracking.Input(name, dataset.digest, place, "training", counts)
    return list(found.values())


def recorded(run: StageRun, store: Store, variant: Variant, tracker: tracking.Tracker) -> str:
    """The MLflow run of a published stage run, complete: whoever trained it may have been killed before it wrote all.

    Every call may be repeated, so two variants that do this at the same time do no harm.
    """
    found = tracker.finished(stage_key(run))
    if found:
        return found
    mlflow_run = start_stage(run, variant, tracker)
    with tracking.Mirror(tracker, mlflow_run, lambda: store.journal(run)):
        pass  # leaving the block writes the steps that are not there yet
    complete(run, mlflow_run, store, tracker)
    return mlflow_run


def complete(run: StageRun, mlflow_run: str, store: Store, tracker: tracking.Tracker) -> None:
    tracker.text(mlflow_run, _tuning(store.journal(run)), "tuning.md")
    tracker.metrics(mlflow_run, left_out(store.journal(run)))
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


def left_out(path: Path) -> dict[str, float]:
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


def stage_key(run: StageRun) -> str:
    """Of its MLflow run: the same for every variant that has it."""
    return f"stage/{run.id}"


def variant_key(lineage: Sequence[StageRun], within: str) -> str:
    """Of its MLflow run: one in each search (its key), and one of its own (`alone`)."""
    return f"variant/{lineage[-1].id}/{within}"


def published_record(run: StageRun, variant: Variant, mlflow_run: str) -> dict[str, Any]:
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
