"""What a training and a search came to is the same lines on a terminal as in a pipe."""

from __future__ import annotations

from pathlib import Path

from remora.evaluation.score import Score, as_json
from remora.reporting.progress import SearchProgress
from remora.reporting.results import search_lines, variant_lines
from remora.training import journal

OWN = Score("easy-vqa", 9673, "accuracy", 0.86612, (0.8591, 0.8724), 0.668, (0.66, 0.68), 0.67, {"accuracy": 0.86612})
PAPER = Score("pope", 9000, "f1", 86.123, (85.2, 87.0), metrics={"f1": 86.123}, broken=2)
LINES = [
    "easy-vqa: accuracy 0.8661 (0.8591 to 0.8724), blind 0.6680, question only 0.6700, n 9,673",
    "pope: f1 86.12 (85.20 to 87.00), n 9,000, 2 could not be asked",
]


def test_a_variants_results(tmp_path: Path) -> None:
    scores = {s.benchmark: as_json(s) for s in (OWN, PAPER)}
    assert list(variant_lines(scores, "/b")) == [*LINES, "bundle: /b", "next: remora serve /b"]
    # The same from the journal, where the process that draws finds them: it had printed nothing.
    status = tmp_path / "status" / "single" / "base.jsonl"
    status.parent.mkdir(parents=True)
    for score in (OWN, PAPER):
        journal.append(status, "scored", **as_json(score))
    journal.append(status, "finished", bundle="/b")
    (ended,) = SearchProgress(tmp_path, "single", ["base"], 0).read()
    assert (ended.state, list(variant_lines(ended.scores, ended.bundle))[:3]) == ("finished", [*LINES, "bundle: /b"])


def test_a_searchs_results() -> None:
    result = {
        "variants": [{"name": "base", "benchmarks": {"easy-vqa": as_json(OWN)}}],
        "champion": "base",
        "register_as": "cats",
        "version": "3",
        "bundle": "/b",
        "stage_runs": {"planned": 7, "trained": 2, "reused": 5},
    }
    assert list(search_lines(result)) == [
        f"base: {LINES[0]}",
        "champion: base, version 3 of cats",
        "bundle: /b",
        "stage runs: 7 planned, 2 trained, 5 reused",
        "next: remora serve cats@champion",
    ]
