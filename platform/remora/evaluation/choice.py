"""Which of several variants is chosen, and how far the choice can be trusted: a ranking with the variants' costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

from remora.evaluation.paired import paired
from remora.evaluation.ranking import Ranking, cheapest, rank
from remora.evaluation.report import Report

Prefer = Literal["best", "cheapest"]


class RankedRecord(TypedDict):
    """A variant's figure on the benchmark that chose, its distance from the best, and its cost."""

    name: str
    figure: float
    ci: list[float]
    behind: float
    behind_ci: list[float]
    p: float
    cost: dict[str, float]


class ChoiceRecord(TypedDict):
    """A `ChampionChoice` as JSON has it."""

    benchmark: str
    metric: str
    n: int
    pictures: int
    alpha: float
    prefer: Prefer
    chosen: str
    best: str
    equals: list[str]
    cheapest: str
    expected_drop: float
    variants: list[RankedRecord]
    warnings: list[str]


@dataclass(frozen=True)
class ChampionChoice:
    """A choice by one benchmark, on the questions that all of the variants were asked."""

    benchmark: str
    metric: str
    ranking: Ranking
    prefer: Prefer
    costs: Mapping[str, Mapping[str, float]]
    """By variant; the weightiest first."""
    cheapest: str
    """Of the best variant and its equals."""
    warnings: tuple[str, ...] = ()

    @property
    def chosen(self) -> str:
        return self.cheapest if self.prefer == "cheapest" else self.ranking.best

    def as_json(self) -> ChoiceRecord:
        found = self.ranking
        return {
            "benchmark": self.benchmark,
            "metric": self.metric,
            "n": found.n,
            "pictures": found.groups,
            "alpha": found.alpha,
            "prefer": self.prefer,
            "chosen": self.chosen,
            "best": found.best,
            "equals": list(found.equals),
            "cheapest": self.cheapest,
            "expected_drop": found.expected_drop,
            "variants": [
                {
                    "name": m.name,
                    "figure": m.figure,
                    "ci": [m.low, m.high],
                    "behind": m.behind,
                    "behind_ci": [m.behind_low, m.behind_high],
                    "p": m.p,
                    "cost": dict(self.costs[m.name]),
                }
                for m in found.models
            ],
            "warnings": list(self.warnings),
        }


def choose(
    benchmark: str,
    reports: Mapping[str, Report],
    costs: Mapping[str, Mapping[str, float]],
    prefer: Prefer = "best",
) -> ChampionChoice:
    """Choose by the headline figure of a benchmark. Of equal figures the first variant is the best.

    Args:
        reports: By variant.
        costs: What each variant costs, lower is better, the weightiest first: {"parameters": …, "picture_tokens": …}.

    Raises:
        DataError: reports that cannot be compared.
    """
    both = paired(benchmark, list(reports.values()))
    metric = both.benchmark.headline
    figures = {name: both.benchmark.figures(items)[metric] for name, items in zip(reports, both.items, strict=True)}
    found = rank(figures, both.groups)
    least = cheapest(found, {name: tuple(cost.values()) for name, cost in costs.items()})
    return ChampionChoice(benchmark, metric, found, prefer, costs, least, tuple(both.warnings))
