"""MLflow records of a variant and of its stage runs, linked to each other.

A stage run shared by several variants is one MLflow run. Nothing here calls MLflow: a run's record is written into the
run folder, and `tracking.Tracker` brings MLflow up to date from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from remora import catalog, tracking
from remora.data.index import Dataset
from remora.errors import UnknownName
from remora.evaluation.measured import Measured
from remora.evaluation.score import Score
from remora.inference.bundle import bundle_name, weights_digest
from remora.model.refs import source_record
from remora.runs import StageRun, variant_name
from remora.spec import PARTS, Variant
from remora.tracking.record import within

NOTE = "mlflow.note.content"
"""The tag that MLflow's page of a run shows first, as Markdown."""
ALONE = "alone"
"""Used instead of a search's key, for a variant trained without a search."""


def variant_run(variant: Variant, lineage: Sequence[StageRun], runs: Path, within: str) -> tracking.Run:
    """The variant's run. Its stage runs are linked, not repeated."""
    alone = within == ALONE
    links = {f"remora.stage.{run.stage.name}": tracking.id_of(stage_key(run)) for run in lineage}
    source = {"mlflow.source.name": "remora train" if alone else "remora search"}
    return tracking.Run(
        runs,
        key=variant_key(lineage, within),
        name=variant_name(variant),
        parent=None if alone else within,
        tags={**source, **links, NOTE: _variant_note(variant, lineage, within)},
        params=_variant_params(variant, lineage),
        texts={"variant.json": variant.model_dump_json(indent=1)},
        inputs=_inputs(lineage),
        models={stage_key(lineage[-1]): _stage_model(lineage[-1], made=False)},
    )


def _variant_params(variant: Variant, lineage: Sequence[StageRun]) -> dict[str, object]:
    """All that decides the result: the parts, what was chosen on a space's axes, and each stage as it is resolved.

    MLflow compares runs by the first three parameters in which they differ, in the order of the alphabet: stages come
    behind what was chosen.
    """
    said: dict[str, object] = {f"part.{p}": getattr(variant, p) for p in PARTS}
    said |= {p: getattr(variant, p) for p in ("recipe", "seed")}
    for run in lineage:
        stage = run.stage.model_dump(mode="json", exclude={"name", "mixture"}, exclude_none=True)
        said[f"stage.{run.stage.name}"] = stage | {"data": _mixture(run)}
    return said | variant.choice


def _variant_note(variant: Variant, lineage: Sequence[StageRun], within: str) -> str:
    """The note at the top of the run's page in MLflow, with links to each stage run and to its files."""
    parts = f"{variant.vision}, {variant.connector}, {variant.llm}"
    stages = [f"- {run.stage.name}: {_mixture(run)} ({tracking.link(run.name, stage_key(run))})" for run in lineage]
    there = tracking.link("The model card and every answer", variant_key(lineage, within), "artifacts")
    where = [] if within == ALONE else [f"Of {tracking.link('its search', within)}."]
    about = f"{variant_name(variant)}: {parts}, by recipe {variant.recipe}."
    return "\n".join([" ".join([about, *where]), "", *stages, "", f"{there}, once it is measured."])


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


def measured_inputs(measured: Measured, data: Path) -> list[tracking.Input]:
    """What a model was asked: the benchmark, by the digest of its questions and pictures."""
    asked = {"questions": measured.score.n} if measured.score else {}
    return [tracking.Input(measured.benchmark, measured.questions, str(data), "evaluation", asked)]


def bundle_models(bundle: Path, runs: Path, made: bool) -> dict[str, tracking.RunModel]:
    """The model in a bundle's folder, that a run made or measured; none of a part that no catalog here has."""
    try:
        weights = weights_digest(bundle)
    except UnknownName:
        return {}
    name = bundle_name(bundle)
    note = f"The bundle {bundle.name} of the run folder. Where it comes from: `remora explain {bundle.name}`."
    tags = {"remora.weights": weights, "remora.variant": name, NOTE: note}
    return {f"bundle/{weights}": tracking.RunModel(bundle.name, "bundle", within(runs.resolve(), bundle), made, tags)}


def _stage_model(run: StageRun, made: bool) -> tracking.RunModel:
    note = f"What stage run {run.name} trained. With those before it: `remora explain {run.name}`."
    return tracking.RunModel(run.name, "stage run", f"stages/{run.name}", made, {"remora.identity": run.id, NOTE: note})


def stage_run(run: StageRun, variant: Variant, runs: Path, parent: str | None = None) -> tracking.Run:
    """The stage run's run; steps and results are read from the stage run's own files."""
    return tracking.Run(
        runs,
        key=stage_key(run),
        name=run.name,
        parent=parent,
        tags={
            "remora.identity": run.id,
            "remora.parent_stage": run.parent.name if run.parent else "",
            NOTE: _stage_note(run, variant),
        },
        params=_params(run, variant),
        texts={"stage.json": run.stage.model_dump_json(indent=1)},
        inputs=_inputs([run]),
        stage=run.name,
        models={stage_key(r): _stage_model(r, made=r is run) for r in (run, run.parent) if r},
    )


def _stage_note(run: StageRun, variant: Variant) -> str:
    said = f"Stage {run.stage.name} of recipe {variant.recipe} on {_mixture(run)}"
    return said + (f", after {tracking.link(run.parent.name, stage_key(run.parent))}." if run.parent else ".")


def _inputs(lineage: Iterable[StageRun]) -> list[tracking.Input]:
    """The datasets that stage runs read, each once, as recorded in their indexes."""
    found = {}
    for run in lineage:
        for entry, folder in zip(run.stage.mixture, run.datasets, strict=False):  # unknown for a run without its data
            dataset = Dataset(folder, entry.skip)
            place = entry.path or catalog.dataset(entry.dataset or "").path
            counts = {"records": dataset.records, "skipped": dataset.skipped}
            found[entry.label, dataset.digest] = tracking.Input(entry.label, dataset.digest, place, "training", counts)
    return list(found.values())


def stage_key(run: StageRun) -> str:
    """The key of its MLflow run: the same for every variant that includes it."""
    return f"stage/{run.id}"


def variant_key(lineage: Sequence[StageRun], within: str) -> str:
    """The key of its MLflow run: one for each search (its key), and one without a search (`ALONE`)."""
    return f"variant/{lineage[-1].id}/{within}"


def published_record(run: StageRun, variant: Variant) -> dict[str, object]:
    """What is kept with a stage run's result, beside its job and its journal. The worker adds when it began, how long
    its last attempt took, and what its attempts ran on."""
    return {
        "identity": run.id,
        "stage": run.stage.name,
        "parent": run.parent.name if run.parent else None,
        "parts": dict(run.parts),
        "trained": list(run.stage.tune.trained),
        "seed": run.seed,
        "workers": variant.cluster.workers,
        "sources": {part: source_record(part, name) for part, name in run.parts},
        "data": [
            {"dataset": entry.label, "digest": Dataset(folder).digest}
            for entry, folder in zip(run.stage.mixture, run.datasets, strict=False)
        ],
    }


def _params(run: StageRun, variant: Variant) -> Mapping[str, object]:
    stage = run.stage.model_dump(mode="json", exclude={"name", "mixture"})
    cluster = variant.cluster.model_dump(mode="json")
    return {"stage": stage, "mixture": _mixture(run), "parts": dict(run.parts), "cluster": cluster}
