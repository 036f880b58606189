"""Where the served model comes from: its stage runs, its data, and the scores that it was chosen by.

What the run folder has is read there, by the digest of the model's weights; the rest is asked of MLflow. A model whose
record is gone is served all the same, so nothing here raises.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from remora import tracking
from remora.errors import RemoraError
from remora.evaluation.sheet import score_files
from remora.files import read_object
from remora.inference.bundle import FILE, weights_digest
from remora.pipeline.origin.stages import data_read

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkScore:
    """A benchmark's headline figure, and what a model without pictures gets."""

    metric: str
    score: float
    ci: tuple[float, float] | None = None
    """Its 95% interval."""
    n: int | None = None
    blind: float | None = None
    """The same model's, shown other pictures."""
    question_only: float | None = None
    """That of the best answers to the questions' words alone."""


@dataclass(frozen=True)
class Lineage:
    """A model's origin; what is not known is empty."""

    weights: str = ""
    """Digest of everything that decides its answers."""
    stages: tuple[str, ...] = ()
    """Its stage runs, in order."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Dataset -> digest of its content."""
    scores: Mapping[str, BenchmarkScore] = field(default_factory=dict)
    chosen_by: str | None = None
    """The benchmark whose score made it the version that it is."""

    def scores_body(self) -> dict[str, object]:
        return {name: asdict(score) for name, score in self.scores.items()}


def lineage(
    folder: Path,
    runs: Path,
    tracker: tracking.Tracker | None = None,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Lineage:
    """The lineage of the bundle in `folder`; `run_id` and `tags` are those of its version in the registry."""
    weights, stages = _weights(folder), _stages(folder)
    data, scores = _data(runs, stages), _scores(runs / "scores", weights)
    if tracker is not None and run_id is not None and not (data and scores):
        try:
            metrics, inputs = tracking.facts_of_run(tracker, run_id)
            data, scores = data or inputs, scores or _scores_of(metrics)
        except RemoraError as e:
            LOG.warning("the lineage of %s is not complete: %s", folder.name, e)
    return Lineage(weights, stages, data, scores, (tags or {}).get("benchmark"))


def with_weights_of(known: Lineage, folder: Path, runs: Path) -> Lineage:
    """The lineage of the bundle in `folder`, which was made of a known one with other weights: its origin, and a digest
    and scores of its own."""
    weights = _weights(folder)
    return replace(known, weights=weights, scores=_scores(runs / "scores", weights))


def _weights(folder: Path) -> str:
    try:
        return weights_digest(folder)
    except (RemoraError, OSError):
        return ""


def _stages(folder: Path) -> tuple[str, ...]:
    said = read_object(folder / FILE).get("about")
    stages = said.get("stages") if isinstance(said, dict) else None
    return tuple(map(str, stages)) if isinstance(stages, list) else ()


def _data(runs: Path, stages: tuple[str, ...]) -> dict[str, str]:
    """The digest of each dataset that the stage runs read."""
    read = (each for stage in stages for each in data_read(runs / "stages" / stage, runs))
    return {each.entry.label: each.digest for each in read if each.digest}


def _scores(folder: Path, weights: str) -> dict[str, BenchmarkScore]:
    """The latest score of each benchmark that these weights were asked."""
    found: dict[str, BenchmarkScore] = {}
    for file in score_files(folder, weights):
        said = read_object(file)
        score, metric = _number(said.get("accuracy")), said.get("metric")
        if score is not None and isinstance(metric, str):
            ci, n = said.get("ci"), said.get("n")
            both = [_number(end) for end in ci] if isinstance(ci, list) else []
            found[str(said.get("benchmark"))] = BenchmarkScore(
                metric,
                score,
                (both[0], both[1]) if len(both) == 2 and both[0] is not None and both[1] is not None else None,
                n if isinstance(n, int) else None,
                _number(said.get("blind")),
                _number(said.get("question_only")),
            )
    return found


def _scores_of(metrics: Mapping[str, float]) -> dict[str, BenchmarkScore]:
    """Scores from a run's metrics: `<benchmark>/<figure>`, where the headline figure has an interval."""
    found: dict[str, BenchmarkScore] = {}
    for name, low in metrics.items():
        benchmark, slash, figure = name.rpartition("/")
        metric = figure.removesuffix("_low")
        score, high = metrics.get(f"{benchmark}/{metric}"), metrics.get(f"{benchmark}/{metric}_high")
        if slash and figure.endswith("_low") and score is not None and high is not None:
            blind, words, n = (metrics.get(f"{benchmark}/{each}") for each in ("blind", "question_only", "n"))
            found[benchmark] = BenchmarkScore(metric, score, (low, high), None if n is None else int(n), blind, words)
    return found


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
