"""What came of asking a model a benchmark: its score, its report, and the files that a server takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.benchmarks import Benchmark, Own, score
from remora.evaluation.judge import Judge
from remora.evaluation.report import Report
from remora.evaluation.score import Score, as_json, summarise
from remora.evaluation.sheet import Sheet
from remora.files import write_json


@dataclass(frozen=True)
class Measured:
    """One benchmark of one model. `folder` holds its answers and all that follows from them."""

    benchmark: str
    folder: Path
    report: Report | None
    score: Score | None
    uploads: tuple[Path, ...] = ()
    """What the benchmark's server takes."""
    questions: str = ""
    """Digest of all that was asked."""
    unscored: str = ""
    """Why there is no score here: a split whose answers its server keeps."""


def tally(
    chosen: Benchmark,
    data: Path,
    sheet: Sheet,
    protocol: str | None = None,
    judge: Judge | None = None,
    only: Collection[str] | None = None,
) -> Measured:
    """Score a sheet that is complete, or the questions of these ids in it, and write what a server takes.

    Raises:
        DataError: it can neither be scored here nor submitted.
    """
    sheet.write()
    answers = sheet.folder / "answers.jsonl"
    uploads, refused = _uploads(chosen, data, answers, sheet.folder / "submission")
    try:
        report = score(chosen, data, answers, protocol, judge=judge, only=only)
    except DataError as e:
        if uploads:
            return Measured(chosen.name, sheet.folder, None, None, tuple(uploads), unscored=str(e))
        raise
    broken = sheet.broken()
    named = [f"question {b['question_id']} could not be asked: {b['broken']}" for b in broken]
    report = replace(report, warnings=[*named, *report.warnings])
    blind, question_only = None, None
    if isinstance(chosen, Own):
        others = sheet.folder / "blind.jsonl"
        blind = score(chosen, data, others, judge=judge, only=only) if others.exists() else None
        question_only = chosen.question_only(data)
    summary = summarise(report, chosen.headline, blind, question_only, len(broken))
    write_json(sheet.folder / "report.json", report.as_json())
    write_json(sheet.folder / "score.json", as_json(summary) | {"no_submission": refused})
    return Measured(chosen.name, sheet.folder, report, summary, tuple(uploads))


def _uploads(chosen: Benchmark, data: Path, answers: Path, folder: Path) -> tuple[Sequence[Path], str]:
    """The files for the benchmark's server, or why there are none: the list of a test split's questions may be away."""
    try:
        return chosen.submission(data, answers, folder), ""
    except DataError as e:
        return [], str(e)
