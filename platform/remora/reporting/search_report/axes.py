"""All axes at once: parallel coordinates, and how much of the score's variance each axis explains."""

from __future__ import annotations

from dataclasses import dataclass

from remora.reporting.search_report.record import SearchRecord

FEWEST = 8
"""Measured variants below which importances are noise."""
MOST_TICKS = 12
"""Values that an axis names."""


@dataclass(frozen=True)
class Spot:
    """Where a value stands on its axis, from 0 to 1."""

    value: str
    height: float


@dataclass(frozen=True)
class Thread:
    """A variant's line: its place on each axis that it has."""

    variant: str
    heights: tuple[tuple[str, float], ...]
    """(axis, height)"""
    figure: float | None
    """None if it was not measured."""


@dataclass(frozen=True)
class Parallel:
    """The axes that differ, beside each other."""

    benchmark: str | None
    axes: dict[str, tuple[Spot, ...]]
    threads: tuple[Thread, ...]
    low: float
    """The least and the highest figure, which stand at the foot and at the top of the last column."""
    high: float


def parallel(record: SearchRecord) -> Parallel | None:
    """None where fewer than two axes differ."""
    axes = {axis: _spots(values) for axis, values in record.axes.items()}
    if len(axes) < 2:
        return None
    heights = {axis: {spot.value: spot.height for spot in spots} for axis, spots in axes.items()}
    scores = {v.name: v.scores[record.benchmark or ""]["accuracy"] for v in record.measured}
    threads = tuple(
        Thread(
            v.name,
            tuple((axis, heights[axis][v.choice[axis]]) for axis in axes if axis in v.choice),
            scores.get(v.name),
        )
        for v in record.variants
    )
    return Parallel(record.benchmark, axes, threads, *(f(scores.values(), default=0.0) for f in (min, max)))


def _spots(values: tuple[str, ...]) -> tuple[Spot, ...]:
    return tuple(Spot(value, i / (len(values) - 1)) for i, value in enumerate(values))


@dataclass(frozen=True)
class Importances:
    """Shares of the score's variance, the largest first; or why there are none."""

    evaluator: str
    variants: int
    """That were measured."""
    shares: tuple[tuple[str, float], ...] = ()
    why_none: str = ""


def importances(record: SearchRecord) -> Importances:
    """By fANOVA (Hutter et al., ICML 2014) as Optuna has it, from the measured variants alone.

    Axes that only some variants have are left out, as Optuna does.
    """
    measured, axes = record.measured, list(record.axes)
    if len(axes) < 2:
        return Importances("", len(measured), why_none="fewer than two axes differ")
    if len(measured) < FEWEST:
        few = f"{len(measured)} variants were measured: of fewer than {FEWEST} importances say nothing"
        return Importances("", len(measured), why_none=few)
    if len({v.scores[record.benchmark or ""]["accuracy"] for v in measured}) == 1:
        return Importances("", len(measured), why_none="all figures are equal")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    kinds = {axis: optuna.distributions.CategoricalDistribution(values) for axis, values in record.axes.items()}
    for v in measured:
        params = {axis: v.choice[axis] for axis in axes if axis in v.choice}
        value = v.scores[record.benchmark or ""]["accuracy"]
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions={a: kinds[a] for a in params}, value=value)
        )
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    except (ValueError, RuntimeError) as e:  # no axis is had by all
        return Importances("fANOVA", len(measured), why_none=str(e).rstrip("."))
    return Importances("fANOVA", len(measured), tuple((axis, float(share)) for axis, share in found.items()))
