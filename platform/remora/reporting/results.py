"""The results of a training run or a search, as lines: the same on a terminal, in a pipe and in a job's log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def variant_lines(scores: Mapping[str, Mapping[str, Any]], bundle: Path | str) -> Iterator[str]:
    """A variant's figures, each with its 95% interval and its baselines, and the model's folder.

    `scores` are `evaluation.score.as_json`'s, by benchmark.
    """
    yield from (score_line(score) for score in scores.values())
    yield f"bundle: {bundle}"
    yield f"next: remora serve {bundle}"


def score_line(score: Mapping[str, Any]) -> str:
    """`easy-vqa: accuracy 0.8650 (0.8581 to 0.8712), blind 0.6680, question only 0.6700, n 9,673`."""
    low, high = score["ci"]
    n = 4 if 0 <= score["accuracy"] <= 1 else 2
    baselines = (("blind", score.get("blind")), ("question only", score.get("question_only")))
    beside = [f", {what} {v:.{n}f}" for what, v in baselines if v is not None]
    broken = f", {score['broken']:,} could not be asked" if score.get("broken") else ""
    figure = f"{score['metric']} {score['accuracy']:.{n}f} ({low:.{n}f} to {high:.{n}f})"
    return f"{score['benchmark']}: {figure}{''.join(beside)}, n {score['n']:,}{broken}"


def search_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a `cluster.search.Result.as_json`: every variant, then the champion."""
    for variant in result["variants"]:
        for score in variant["benchmarks"].values():
            yield f"{variant['name']}: {score_line(score)}"
    name, counts = result["register_as"], result["stage_runs"]
    version = result["version"]
    there = (
        f", version {version} of {name}" if version else f"; once MLflow answers, remora sync registers it as {name}"
    )
    yield f"champion: {result['champion']}{there}"
    yield f"bundle: {result['bundle']}"
    yield f"stage runs: {counts['planned']} planned, {counts['trained']} trained, {counts['reused']} reused"
    yield f"next: remora serve {name}@champion"
