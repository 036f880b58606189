"""Results of a model on a benchmark: its score, its report, and the submission files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.benchmarks import Benchmark, score
from remora.evaluation.judge import Judge
from remora.evaluation.report import Report
from remora.evaluation.score import Score, as_json, summarise
from remora.evaluation.sheet import REPORT, SCORE, Sheet
from remora.files import write_json


@dataclass(frozen=True)
class Measured:
    """One benchmark of one model. `folder` holds its answers and everything computed from them."""

    benchmark: str
    folder: Path
    report: Report | None
    score: Score | None
    uploads: tuple[Path, ...] = ()
    """Files for the benchmark's server."""
    questions: str = ""
    """Digest of all that was asked."""
    unscored: str = ""
    """Why there is no score: the answers of this split are secret."""


def tally(
    chosen: Benchmark,
    data: Path,
    sheet: Sheet,
    protocol: str | None = None,
    judge: Judge | None = None,
    only: Collection[str] | None = None,
) -> Measured:
    """Score a complete sheet, or the questions with these ids in it, and write the submission files.

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
    blind, question_only, without = _baselines(chosen, data, sheet, judge, only)
    report = replace(report, warnings=[*named, *without, *report.warnings])
    summary = summarise(report, chosen.headline, blind, question_only, len(broken))
    write_json(sheet.folder / REPORT, report.as_json())
    write_json(sheet.folder / SCORE, as_json(summary) | {"no_submission": refused})
    return Measured(chosen.name, sheet.folder, report, summary, tuple(uploads))


def _baselines(
    chosen: Benchmark, data: Path, sheet: Sheet, judge: Judge | None, only: Collection[str] | None
) -> tuple[Report | None, float | None, list[str]]:
    """The blind and question-only figures of your own benchmark, and why one of them is missing."""
    if chosen.own is None:
        return None, None, []
    others, without = sheet.folder / "blind.jsonl", []
    blind = score(chosen, data, others, judge=judge, only=only) if others.exists() else None
    if blind is None:
        without.append("no blind baseline: it asks about the benchmark's other pictures, and there are none")
    try:
        question_only = chosen.question_only(data)
    except DataError as e:
        question_only = None
        without.append(f"no question-only baseline: {e}")
    return blind, question_only, without


def _uploads(chosen: Benchmark, data: Path, answers: Path, folder: Path) -> tuple[Sequence[Path], str]:
    """The files for the benchmark's server, or why there are none: a test split's list of questions may be missing."""
    try:
        return chosen.submission(data, answers, folder), ""
    except DataError as e:
        return [], str(e)
