"""Who won, who cannot be told from the winner, and how far everybody came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.choice import ChampionChoice, choose
from remora.evaluation.kept import read_report
from remora.evaluation.report import Report
from remora.evaluation.score import ScoreRecord
from remora.evaluation.sheet import ABOUT, REPORT, SCORE, read_about
from remora.reporting.search_report.record import SearchedVariant, SearchRecord, json_of

FAR = float("inf")


@dataclass(frozen=True)
class Standing:
    """A variant's line of the leaderboard."""

    variant: SearchedVariant
    place: int | None
    """By the deciding benchmark, from 1; None if it was not measured."""
    champion: bool
    tied: bool
    """The best, or not distinguishable from it."""
    p: float | None
    """That a difference from the best as large as this is chance, adjusted for all pairs."""
    behind: tuple[float, float, float] | None
    """What the best has more, and its interval, which holds for all pairs at once."""
    rung: str
    """How far it came, if it did not come to its end."""


@dataclass(frozen=True)
class Leaderboard:
    """Every variant, the measured ones first and the best first."""

    champion: str | None
    benchmark: str | None
    lines: tuple[Standing, ...]
    verdict: ChampionChoice | None
    why_none: str
    """Why there is no verdict."""


def leaderboard(record: SearchRecord) -> Leaderboard:
    """The figures come from the search's result; the verdict is made anew from per-question results."""
    verdict, why = None, ""
    try:
        verdict = _verdict(record)
    except DataError as e:
        why = str(e)
    champion = record.result.get("champion") or (verdict.chosen if verdict else None)
    ranked = {m.name: m for m in verdict.ranking.models} if verdict else {}
    top = {verdict.ranking.best, *verdict.ranking.equals} if verdict else set()
    order = sorted(record.measured, key=lambda v: -v.scores[record.benchmark or ""]["accuracy"])
    places = {v.name: i for i, v in enumerate(order, 1)}
    rest = sorted((v for v in record.variants if v.name not in places), key=_far)
    lines = [
        Standing(
            v,
            places.get(v.name),
            v.name == champion,
            v.name in top,
            m.p if (m := ranked.get(v.name)) else None,
            (m.behind, m.behind_low, m.behind_high) if m else None,
            _rung(v, record),
        )
        for v in (*order, *rest)
    ]
    return Leaderboard(champion, record.benchmark, tuple(lines), verdict, why)


def _far(v: SearchedVariant) -> tuple[float, float]:
    """Who came further is above; of those the better."""
    return (-v.reached.share, -v.reached.merit) if v.reached else (0.0, 0.0)


def _rung(v: SearchedVariant, record: SearchRecord) -> str:
    if v.error or v.state == "finished" or not v.reached:
        return v.error
    found = record.board.place(v.reached)
    place = ", place {} of {}".format(*found) if found else ""
    return f"{v.reached.share:.0%} of {v.reached.stage}: {v.reached.figure} {v.reached.value:.4g}{place}"


def _verdict(record: SearchRecord) -> ChampionChoice | None:
    """Raises:
    DataError: a report is gone, or reports cannot be compared.
    """
    name, several = record.benchmark, record.measured
    if not name or len(several) < 2:
        return None
    folders = _folders(record.runs / "scores", name)
    reports = {v.name: _report(v, name, folders.get(v.name, [])) for v in several}
    costs = {v.name: {"parameters": v.parameters or FAR, "picture_tokens": v.picture_tokens or FAR} for v in several}
    return choose(name, reports, costs, record.space.champion.prefer if record.space else "best")


def _folders(scores: Path, benchmark: str) -> Mapping[str, list[Path]]:
    """Folders with answers to a benchmark, by the model's name, the latest first."""
    found: dict[str, list[Path]] = {}
    for file in sorted(scores.glob(f"*/{ABOUT}"), key=lambda p: -p.stat().st_mtime):
        about = read_about(file.parent)
        if about and about.benchmark == benchmark:
            found.setdefault(about.model, []).append(file.parent)
    return found


def _report(variant: SearchedVariant, benchmark: str, folders: list[Path]) -> Report:
    """What the variant's score was made from: other models may have had its name, with other figures."""
    score = variant.scores[benchmark]
    for folder in folders:
        if _same(json_of(folder / SCORE), score):
            return read_report(folder / REPORT).report
    raise DataError(f"{variant.name}: its answers to {benchmark} are gone from the run folder's scores/")


def _same(kept: Mapping[str, object], score: ScoreRecord) -> bool:
    return bool(kept) and kept.get("n") == score["n"] and kept.get("metrics") == score["metrics"]
