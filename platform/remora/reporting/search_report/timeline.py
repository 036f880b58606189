"""What the search did when: the ledger's items, packed into as many lanes as were busy at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remora.pipeline.search.ledger import Entry
from remora.reporting.search_report.record import SearchRecord

PAUSE = 0.1
"""Times in which nothing ran are cut out if they are longer than this share of the time in which something did."""


@dataclass(frozen=True)
class TimelineItem:
    """An item of the ledger."""

    lane: int
    variant: str
    run: str
    kind: str
    """train | measure"""
    how: str
    """trained | paused | measured | failed | lost | reused"""
    begin: float
    """Seconds of the picture: since the first item began, without the times that are cut out."""
    end: float
    seconds: float
    steps: int


@dataclass(frozen=True)
class Timeline:
    """All items that took time."""

    spans: tuple[TimelineItem, ...]
    lanes: int
    seconds: float
    """Of the whole picture."""
    cuts: tuple[tuple[float, float], ...]
    """(where in the picture, seconds that are cut out there)"""
    busy: float
    """Share of lanes x seconds in which items ran."""


def timeline(record: SearchRecord) -> Timeline | None:
    """None if nothing ran. An item that was lost has no end: it is drawn up to the next one's beginning."""
    begun = sorted(record.entries, key=lambda e: e.began)
    if not begun:
        return None
    ends = {e.number: e.ended or _next(begun, e.began) for e in begun}
    shown = [e for e in begun if e.how != "reused"] or begun
    cuts = _cuts([(e.began, ends[e.number]) for e in shown])

    def at(time: float) -> float:
        return time - shown[0].began - sum(min(max(time - begin, 0.0), end - begin) for begin, end in cuts)

    free: list[float] = []
    spans = []
    for e in shown:
        lane = next((i for i, until in enumerate(free) if until <= e.began + 1e-6), len(free))
        free[lane : lane + 1] = [ends[e.number]]
        begin, end = at(e.began), at(ends[e.number])
        spans.append(TimelineItem(lane, e.variant, e.run, e.kind, e.how, begin, end, ends[e.number] - e.began, e.steps))
    seconds = max(s.end for s in spans)
    busy = sum(s.end - s.begin for s in spans) / (len(free) * seconds) if seconds else 0.0
    return Timeline(tuple(spans), len(free), seconds, tuple((at(a), b - a) for a, b in cuts), busy)


def _next(begun: Sequence[Entry], began: float) -> float:
    return next((e.began for e in begun if e.began > began), began)


def _cuts(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Times between items in which nothing ran, if they are long."""
    gaps, until, idle = [], spans[0][0], 0.0
    for begin, end in sorted(spans):
        if begin > until:
            gaps.append((until, begin))
            idle += begin - until
        until = max(until, end)
    busy = until - spans[0][0] - idle
    return [(a, b) for a, b in gaps if b - a > PAUSE * busy]
