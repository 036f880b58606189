"""Learning curves by samples, and the rungs: what was seen of each variant before it was decided on."""

from __future__ import annotations

from dataclasses import dataclass

from remora.reporting.search_report.leaderboard import Leaderboard
from remora.reporting.search_report.record import SearchRecord
from remora.reporting.search_report.training import Trained

RANKS = ("champion", "tied", "other", "stopped")
"""Whose line it is, the most telling first."""


@dataclass(frozen=True)
class Curve:
    """One stage run's losses."""

    run: Trained
    rank: str
    """One of RANKS: the best of the variants that have the stage run."""
    variants: tuple[str, ...]


@dataclass(frozen=True)
class StageCurves:
    """All stage runs of one stage."""

    stage: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class RungPoint:
    """A variant at a rung."""

    variant: str
    share: float
    """Of the stage."""
    value: float
    rank: str
    decision: str


@dataclass(frozen=True)
class RungCurves:
    """One stage's rungs, by one figure."""

    stage: str
    figure: str
    points: tuple[RungPoint, ...]


def ranks(board: Leaderboard) -> dict[str, str]:
    """Variant -> one of RANKS."""
    return {
        line.variant.name: "champion"
        if line.champion
        else "tied"
        if line.tied
        else "other"
        if line.variant.state in ("finished", "trained")
        else "stopped"
        for line in board.lines
    }


def curves(record: SearchRecord, board: Leaderboard) -> tuple[StageCurves, ...]:
    """Of every stage, in the order in which stages follow each other; stage runs that never began are left out."""
    rank, found = ranks(board), dict[str, list[Curve]]()
    users: dict[str, list[str]] = {}
    for v in record.variants:
        for run in v.lineage:
            users.setdefault(run, []).append(v.name)
    depth = {run: i for v in record.variants for i, run in enumerate(v.lineage)}
    for name, trained in sorted(record.stages.items(), key=lambda item: depth.get(item[0], 0)):
        if trained.curve:
            best = min((rank[v] for v in users[name]), key=RANKS.index)
            found.setdefault(trained.stage, []).append(Curve(trained, best, tuple(users[name])))
    # As the longest lineage has them: that of a variant which lacks a stage may come first.
    stages = sorted(found, key=lambda stage: max(depth.get(curve.run.name, 0) for curve in found[stage]))
    return tuple(StageCurves(stage, tuple(found[stage])) for stage in stages)


def rungs(record: SearchRecord, board: Leaderboard) -> tuple[RungCurves, ...]:
    """Every stage that has rungs; a stage that was compared by two figures is there twice."""
    rank = ranks(board)
    decided = {(d.run, d.share): d.decision for d in record.board.decided}
    found: dict[tuple[str, str], list[RungPoint]] = {}
    for at in record.board.arrivals:
        point = RungPoint(
            at.variant, at.share, at.value, rank.get(at.variant, "other"), decided.get((at.run, at.share), "")
        )
        found.setdefault((at.stage, at.figure), []).append(point)
    return tuple(RungCurves(*of, tuple(points)) for of, points in found.items())
