"""Stored reports: those of a model, found by its weights, and the pairs of two models that can be compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.answers import parse
from remora.evaluation.report import Report
from remora.evaluation.shared_scores import bring_scores
from remora.evaluation.sheet import ABOUT, REPORT, read_about


@dataclass(frozen=True)
class Kept:
    """A report and its file. `questions` is the digest of all that was asked, if the file's folder has it."""

    report: Report
    file: Path
    questions: str = ""


def read_report(file: Path) -> Kept:
    """Raises:
    DataError: the file is missing, or not a report.
    """
    try:
        raw = parse(file.read_text())
        about = read_about(file.parent)
        return Kept(Report.from_json(raw), file, about.questions if about and file.name == REPORT else "")
    except OSError as e:
        raise DataError(f"unreadable report: {file} ({e.strerror})") from None
    except ValueError as e:
        raise DataError(
            f"{file}: not a report ({e}); reports are what remora evaluate --out and remora score --json write"
        ) from None


def reports_of(scores: Path, weights: str, benchmark: str | None = None) -> list[Kept]:
    """Every report below `scores` of the model with that digest, latest first; its name does not matter. With a
    `benchmark`, only those on it."""
    bring_scores(scores)
    folders = [p.parent for p in scores.glob(f"*/{ABOUT}") if (p.parent / REPORT).is_file()]
    of = [(f / REPORT, about) for f in folders if (about := read_about(f)) and about.weights == weights]
    mine = [f for f, about in of if benchmark in (None, about.benchmark)]
    return [read_report(f) for f in sorted(mine, key=lambda p: p.stat().st_mtime, reverse=True)]


def pairs(first: Iterable[Kept], second: Iterable[Kept]) -> dict[str, tuple[Report, Report]]:
    """The benchmarks that both were measured on: a pair on the same questions if there is one, else the latest."""
    first, second = list(first), list(second)
    found: dict[str, tuple[Report, Report]] = {}
    for same in (True, False):
        for a in first:
            for b in second:
                alike = a.report.benchmark == b.report.benchmark and (not same or a.questions == b.questions)
                if alike and a.report.benchmark not in found:
                    found[a.report.benchmark] = (a.report, b.report)
    return found
