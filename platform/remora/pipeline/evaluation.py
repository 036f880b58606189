"""`remora evaluate`'s work: benchmarks one after the other, and their record in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from remora import tracking
from remora.evaluation.measured import Measured
from remora.inference.bundle import bundle_name, weights_digest
from remora.pipeline.executor import Executor
from remora.pipeline.measure import Prepared, measure
from remora.pipeline.record import metrics_of, open_tracker
from remora.spec import Cluster
from remora.stages import Store


def _versions() -> dict[str, str]:
    """Of what may change an answer."""
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
    """Measure a bundle on each benchmark. One MLflow run a model: measured again, it is taken up again.

    Where MLflow does not answer, `note` is told, and the record waits in the run folder as training's does.

    Raises:
        RemoraError: what stopped it; benchmarks that were measured before stay measured.
    """
    tracker = tracking.Tracker(store.runs, tracking_uri)
    open_tracker(tracker, "the figures are kept", note)
    model = bundle_name(bundle)
    identity = weights_digest(bundle)
    run = tracker.start(
        f"{model} evaluation",
        key=f"evaluation/{identity}",
        tags={"remora.kind": "evaluation", "remora.weights": identity, **_versions()},
    )
    found = []
    try:
        for prepared in benchmarks:
            measured = measure(
                prepared, bundle, store, executor, cluster,
                protocol=protocol, limit=limit, judge_model=judge_model, hear=hear, wait=wait,
            )  # fmt: skip
            found.append(measured)
            tracker.tag(run, f"remora.questions.{measured.benchmark}", measured.questions)
            asked = {"questions": measured.score.n} if measured.score else {}
            where = str(prepared.data)
            tracker.inputs(run, [tracking.Input(measured.benchmark, measured.questions, where, "evaluation", asked)])
            if measured.score and measured.report:
                tracker.metrics(run, metrics_of(measured.score))
                tracker.tag(run, f"remora.protocol.{measured.benchmark}", measured.report.protocol)
                if measured.report.judge:
                    tracker.tag(run, f"remora.judge.{measured.benchmark}", measured.report.judge)
            tracker.artifacts(run, measured.folder, f"benchmarks/{measured.benchmark}")
    except BaseException:
        tracker.finish(run, "FAILED")
        raise
    tracker.finish(run)
    return found
