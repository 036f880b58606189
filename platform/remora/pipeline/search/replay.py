"""What another rule would have made of a search, from what its rungs recorded.

Only what was measured is known: a variant that was stopped at a rung has no value behind it. Where another rule would
have trained it on, its price counts and its name is listed as unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

from remora.pipeline.search.board import Reached, Rungs
from remora.pipeline.search.rules import Halving, Median, StoppingRule


@dataclass(frozen=True)
class Replayed:
    """The last stages of a search's variants under a rule."""

    rule: str
    stage: str
    trained: dict[str, float]
    """Variant -> the share of its last stage that is trained."""
    steps: int
    """Steps of last stages: the shares, times the stages' lengths."""
    of: int
    """Steps of last stages if all variants are trained to their ends."""
    so_far: int
    """Steps of last stages up to where each variant was measured last."""
    finish: tuple[str, ...]
    """Variants of which it is known that they are trained to their end, the best at the last rung first."""
    unknown: tuple[str, ...]
    """Those that would have been trained further than they were, so that what follows from their values is open."""


def replay(board: Rungs, stage: str, rule: StoppingRule) -> Replayed:
    """All variants with that last stage, in the order in which they came to their first rung."""
    curves: dict[str, dict[float, Reached]] = {}
    for at in board.arrivals:
        if at.stage == stage and at.figure == rule.figure:
            curves.setdefault(at.run, {})[at.share] = at
    runs = list(curves)
    if isinstance(rule, Halving):
        trained, unknown = _halved(runs, curves, rule)
    elif isinstance(rule, Median):
        trained, unknown = _by_median(runs, curves, rule)
    else:
        trained, unknown = dict.fromkeys(runs, 1.0), []
    lengths = {run: round(at.step / at.share) for run in runs for at in [_last(curves[run])]}
    names = {run: _last(curves[run]).variant for run in runs}
    known = [r for r in runs if trained[r] == 1.0 and r not in unknown]
    finish = sorted(known, key=lambda r: -_last(curves[r]).merit)
    return Replayed(
        rule.words,
        stage,
        {names[run]: share for run, share in trained.items()},
        sum(round(share * lengths[run]) for run, share in trained.items()),
        sum(lengths.values()),
        sum(_last(curves[run]).step for run in runs),
        tuple(names[run] for run in finish),
        tuple(names[run] for run in unknown),
    )


def _last(curve: dict[float, Reached]) -> Reached:
    return curve[max(curve)]


def _at(curve: dict[float, Reached], share: float) -> Reached | None:
    """What was known of a variant at a share: the newest value up to it, if the variant was trained so far."""
    if max(curve) < share - 1e-6:
        return None
    return curve[max(s for s in curve if s <= share + 1e-6)] if min(curve) <= share + 1e-6 else None


def _halved(
    runs: list[str], curves: dict[str, dict[float, Reached]], rule: Halving
) -> tuple[dict[str, float], list[str]]:
    trained: dict[str, float] = {}
    unknown: list[str] = []
    alive = list(runs)
    for share in rule.rungs:
        trained |= dict.fromkeys(alive, share)
        known = {run: at for run in alive if (at := _at(curves[run], share))}
        unknown += [run for run in alive if run not in known]
        best = sorted(known, key=lambda run: -known[run].merit)
        rest = [run for run in alive if run not in known]  # the cost does not depend on which of them go on
        alive = [*best, *rest][: max(1, len(alive) // rule.eta)]
    return trained | dict.fromkeys(alive, 1.0), list(dict.fromkeys(unknown))


def _by_median(
    runs: list[str], curves: dict[str, dict[float, Reached]], rule: Median
) -> tuple[dict[str, float], list[str]]:
    trained: dict[str, float] = {}
    unknown: list[str] = []
    board = Rungs()
    for run in runs:
        trained[run] = 1.0
        for share in rule.rungs:
            at = _at(curves[run], share)
            if at is None:
                unknown.append(run)
                break
            here = Reached(**{**vars(at), "share": share})
            board.take(here)
            if rule.at(board, here) == "stop":
                trained[run] = share
                break
    return trained, unknown
