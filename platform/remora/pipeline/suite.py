"""Measure a model on several benchmarks and record it in MLflow: the work of `remora evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from remora import tracking
from remora.evaluation.measured import Measured
from remora.inference.bundle import bundle_name, weights_digest
from remora.pipeline.executor import Executor
from remora.pipeline.measure import Prepared, measure
from remora.pipeline.tracked_runs import bundle_models, measured_inputs, metrics_of
from remora.runs import Store
from remora.spec import Cluster


def _versions() -> dict[str, str]:
    """Versions of the packages that may change an answer."""
    return {f"remora.version.{name}": version(name) for name in ("remora", "torch", "transformers", "pillow")}


def evaluate(
    bundle: Path,
    benchmarks: Sequence[Prepared],
    store: Store,
    executor: Executor,
    cluster: Cluster,
    tracking_uri: str | None = None,
    protocol: str | None = None,
    limit: int | None = None,
    judge_model: str | None = None,
    hear: Callable[[str, int, int], None] = lambda name, done, of: None,
    wait: Callable[[str], None] = lambda holder: None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """Measure a bundle on each benchmark. A model has one MLflow run, also when it is measured again.

    If MLflow does not answer, `note` gets a line, and the record waits in the run folder, as in training.

    Raises:
        RemoraError: what stopped it; finished benchmarks are kept.
    """
    model = bundle_name(bundle)
    identity = weights_digest(bundle)
    run = tracking.Run(
        store.runs,
        key=f"evaluation/{identity}",
        name=f"{model} evaluation",
        tags={"mlflow.source.name": "remora evaluate", "remora.weights": identity, **_versions()},
        models=bundle_models(bundle, store.runs, made=False),
    )
    found = []
    with tracking.Tracker(store.runs, tracking_uri, note=note), run:
        for prepared in benchmarks:
            measured = measure(
                prepared, bundle, store, executor, cluster,
                protocol=protocol, limit=limit, judge_model=judge_model, hear=hear, wait=wait,
            )  # fmt: skip
            found.append(measured)
            run.note(
                tags=_tags(measured),
                metrics=metrics_of(measured.score) if measured.score else None,
                inputs=measured_inputs(measured, prepared.data),
                files={f"benchmarks/{measured.benchmark}": measured.folder},
            )
    return found


def _tags(measured: Measured) -> dict[str, str]:
    said = {"questions": measured.questions}
    if measured.report:
        said |= {"protocol": measured.report.protocol, "judge": measured.report.judge or ""}
    return {f"remora.{what}.{measured.benchmark}": text for what, text in said.items() if text}
