"""What a better score costs: parameters, picture tokens, steps, seconds, answering, with the Pareto front of each."""

from __future__ import annotations

from dataclasses import dataclass

from remora.evaluation.pareto import front
from remora.reporting.search_report.record import SearchRecord

PRICES = {
    "parameters": "parameters",
    "picture_tokens": "tokens a picture",
    "steps": "optimiser steps",
    "seconds": "seconds of training",
    "answer_seconds": "seconds an answer",
    "answering_memory": "GiB while it answers",
}
"""A variant's cost -> what its axis says."""
TIMED, APART = ("seconds", "answer_seconds", "answering_memory"), 1.1
"""Costs that no two runs measure alike: shown where the dearest is so many times the cheapest."""


@dataclass(frozen=True)
class Priced:
    """A measured variant, by one cost."""

    variant: str
    cost: float
    figure: float
    low: float
    high: float
    front: bool
    """No other variant is better and no dearer, or as good and cheaper."""


@dataclass(frozen=True)
class Tradeoff:
    """The deciding benchmark's figure by one cost."""

    cost: str
    """One of PRICES."""
    benchmark: str
    points: tuple[Priced, ...]


def tradeoffs(record: SearchRecord) -> tuple[Tradeoff, ...]:
    """One for each cost in which measured variants differ."""
    found = []
    for cost in PRICES:
        points = [(v.name, getattr(v, cost), v.scores[record.benchmark or ""]) for v in record.measured]
        known = [(name, float(price), score) for name, price, score in points if price]
        prices = {price for _, price, _ in known}
        if len(prices) < 2 or (cost in TIMED and max(prices) < APART * min(prices)):
            continue
        best = front([(-price, score["accuracy"]) for _, price, score in known])
        priced = [
            Priced(name, price, s["accuracy"], s["ci"][0], s["ci"][1], on)
            for (name, price, s), on in zip(known, best, strict=True)
        ]
        found.append(Tradeoff(cost, record.benchmark or "", tuple(sorted(priced, key=lambda p: (p.cost, -p.figure)))))
    return tuple(found)
