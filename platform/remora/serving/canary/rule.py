"""The test of a canary: comparisons of the same requests, each criterion against its limit, by exact paired tests.

What is known without labels: whether a version failed, said nothing, was cut at its length limit, and how long it took.
Whether an answer is right is not known here; that is what the gate of `remora promote` holds against the champion.

- errors, empty, cut: yes or no for each version. Tested is the difference of the rates, with discordant pairs
  (`paired_rates`).
- first token, token time: the candidate's seconds are divided by the limit. If it is exactly at the limit, either of
  a pair is the larger one equally often: the sign test. p95: either is among the slowest 5% of all, equally often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from remora.evaluation.sequential import levels, paired_rates, quantile, sign_test
from remora.serving.canary.args import CanaryRule
from remora.serving.canary.observed import Comparison, Observation

CanaryVerdict = Literal["go on", "roll back", "promote"]
FEW = 30
"""Answers with a time, below which times are not tested: of answers of one token there is no token time at all."""
SLOWEST = 0.95


@dataclass(frozen=True)
class CriterionFigure:
    """One criterion, over all comparisons so far."""

    name: str
    n: int
    """Comparisons that have it for both versions."""
    stable: float | None
    candidate: float | None
    """Rates; or seconds, at the median or at p95."""
    limit: float
    unit: Literal["rate", "seconds"]
    p_beyond: float
    """One-sided: how likely so bad a candidate would be if it were just at the limit."""
    p_within: float
    """How likely so good a one would be."""
    tested: bool = True

    @property
    def shown(self) -> str:
        """`first token: 0.031 s against 0.020 s, 1.53 times (limit 1.5), n 400, p beyond 0.310, within 0.690`."""
        if self.stable is None or self.candidate is None or not self.tested:
            return f"{self.name}: not tested, n {self.n}"
        if self.unit == "rate":
            apart = f"{self.candidate - self.stable:+.3f} (limit +{self.limit:g})"
            both = f"{self.candidate:.3f} against {self.stable:.3f}"
        else:
            times = f"{self.candidate / self.stable:.2f} times" if self.stable else "no ratio"
            apart = f"{times} (limit {self.limit:g})"
            both = f"{self.candidate:.4f} s against {self.stable:.4f} s"
        ends = f"p beyond {self.p_beyond:.2g}, within {self.p_within:.2g}"
        return f"{self.name}: {both}, {apart}, n {self.n:,}, {ends}"


@dataclass(frozen=True)
class ToldFigures:
    """What is told, but decides nothing."""

    same: float
    """Share of comparisons whose answers are the same text."""
    overlap: float
    """Mean F1 of their words."""
    tokens_stable: float
    tokens_candidate: float
    """Mean lengths."""
    dropped: int


@dataclass(frozen=True)
class CanaryLook:
    """What the rule says after some comparisons."""

    look: int
    n: int
    level: float
    """At which each criterion was tested for being beyond its limit."""
    verdict: CanaryVerdict
    why: str
    figures: tuple[CriterionFigure, ...]
    told: ToldFigures

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def decide(comparisons: Sequence[Comparison], rule: CanaryRule, look: int) -> CanaryLook:
    """The rule's word at a look; `comparisons` are the first `rule.look_at(look)` ones."""
    found = figures(comparisons, rule)
    # Any criterion rolls it back, so each has its part of alpha; all have to let it pass, so each may use all of beta.
    level = levels(rule.looks, rule.alpha / len(found), rule.spending)[look - 1]
    beyond = [figure for figure in found if figure.tested and figure.p_beyond <= level]
    open_ones = [figure for figure in found if figure.tested and figure.p_within > rule.beta]
    verdict: CanaryVerdict = "go on"
    why = ""
    if beyond:
        verdict, why = "roll back", "beyond its limit: " + "; ".join(f.shown for f in beyond)
    elif look == rule.looks:
        if open_ones:
            verdict, why = "roll back", "not shown to be within its limit: " + "; ".join(f.shown for f in open_ones)
        else:
            skipped = [figure.name for figure in found if not figure.tested]
            verdict, why = "promote", "within all limits" + (f"; not tested: {', '.join(skipped)}" if skipped else "")
    return CanaryLook(look, len(comparisons), level, verdict, why, found, _told(comparisons))


def figures(comparisons: Sequence[Comparison], rule: CanaryRule) -> tuple[CriterionFigure, ...]:
    """Every criterion. An answer that failed has no other figure than that."""
    answered = _answered(comparisons)
    first = [(c.candidate.first_token_s, c.stable.first_token_s) for c in answered]
    later = [(c.candidate.token_s, c.stable.token_s) for c in answered]
    return (
        _rates("errors", [(_failed(c.candidate), _failed(c.stable)) for c in comparisons], rule.errors),
        _rates("empty", [(c.candidate.empty, c.stable.empty) for c in answered], rule.empty),
        _rates("cut", [(_cut(c.candidate), _cut(c.stable)) for c in answered], rule.cut),
        _median("first token", _both(first), rule.first_token),
        _slowest("first token p95", _both(first), rule.first_token_p95),
        _median("token time", _both(later), rule.token_time),
        _slowest("token time p95", _both(later), rule.token_time_p95),
    )


def _answered(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [c for c in comparisons if not _failed(c.stable) and not _failed(c.candidate)]


def _failed(answer: Observation) -> bool:
    return answer.error is not None


def _cut(answer: Observation) -> bool:
    return answer.finish_reason == "length"


def _both(pairs: Sequence[tuple[float | None, float | None]]) -> list[tuple[float, float]]:
    return [(candidate, stable) for candidate, stable in pairs if candidate is not None and stable is not None]


def _rates(name: str, pairs: Sequence[tuple[bool, bool]], margin: float) -> CriterionFigure:
    n = len(pairs)
    up, down = (sum(c and not s for c, s in pairs), sum(s and not c for c, s in pairs))
    beyond, within = paired_rates(up, down, n, margin)
    stable = sum(s for _, s in pairs) / n if n else None
    candidate = sum(c for c, _ in pairs) / n if n else None
    return CriterionFigure(name, n, stable, candidate, margin, "rate", beyond, within, n > 0)


def _median(name: str, pairs: Sequence[tuple[float, float]], limit: float) -> CriterionFigure:
    up, down = (sum(c / limit > s for c, s in pairs), sum(c / limit < s for c, s in pairs))
    return _seconds(name, pairs, limit, 0.5, sign_test(up, down))


def _slowest(name: str, pairs: Sequence[tuple[float, float]], limit: float) -> CriterionFigure:
    scaled = [(c / limit, s) for c, s in pairs]
    slow = quantile([second for pair in scaled for second in pair], SLOWEST) if pairs else 0.0
    up, down = (sum(c > slow >= s for c, s in scaled), sum(s > slow >= c for c, s in scaled))
    return _seconds(name, pairs, limit, SLOWEST, sign_test(up, down))


def _seconds(
    name: str, pairs: Sequence[tuple[float, float]], limit: float, share: float, p: tuple[float, float]
) -> CriterionFigure:
    n = len(pairs)
    candidate = quantile([c for c, _ in pairs], share) if pairs else None
    stable = quantile([s for _, s in pairs], share) if pairs else None
    beyond, within = p
    return CriterionFigure(name, n, stable, candidate, limit, "seconds", beyond, within, n >= FEW)


def _told(comparisons: Sequence[Comparison]) -> ToldFigures:
    answered = _answered(comparisons)
    n = max(1, len(answered))
    return ToldFigures(
        sum(c.same for c in answered) / n,
        sum(c.overlap for c in answered) / n,
        sum(c.stable.tokens for c in answered) / n,
        sum(c.candidate.tokens for c in answered) / n,
        sum(c.dropped for c in comparisons),
    )
