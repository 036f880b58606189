"""What a search maximises and minimises: scores on benchmarks, and what a variant costs; and the Pareto set of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from remora.errors import SpecError, nearest
from remora.evaluation.pareto import front
from remora.pipeline import answer_speed
from remora.pipeline.choice import cost
from remora.pipeline.variant import Outcome
from remora.runs import StageRun, Store
from remora.runs.rungs import figure_name
from remora.spec import COSTS, SPEEDS, Objective, Space, Variant
from remora.training import journal


class ParetoVariant(TypedDict):
    """A `ParetoPoint` as JSON has it."""

    name: str
    figures: dict[str, float]
    front: bool


class ParetoRecord(TypedDict):
    """A `ParetoSet` as JSON has it."""

    objectives: dict[str, str]
    variants: list[ParetoVariant]
    without: list[str]


@dataclass(frozen=True)
class ParetoPoint:
    """A measured variant by its objectives."""

    name: str
    figures: dict[str, float]
    front: bool
    """No other variant is at least as good in every objective and better in one."""


@dataclass(frozen=True)
class ParetoSet:
    """Several objectives and the measured variants, those on the front first, the best by the first objective first."""

    objectives: dict[str, str]
    """Figure -> max | min."""
    variants: tuple[ParetoPoint, ...]
    without: tuple[str, ...] = ()
    """Measured variants that lack one of the figures."""

    def as_json(self) -> ParetoRecord:
        variants: list[ParetoVariant] = [
            {"name": v.name, "figures": v.figures, "front": v.front} for v in self.variants
        ]
        return {"objectives": self.objectives, "variants": variants, "without": list(self.without)}


def objectives_of(space: Space) -> tuple[Objective, ...]:
    """By default the champion's benchmark; a benchmark of one's own by the name of its file."""
    said = space.objectives or (Objective(figure=space.champion.benchmark, direction="max"),)
    return tuple(o.model_copy(update={"figure": figure_name(o.figure)}) for o in said)


def check_objectives(space: Space) -> None:
    """Raises:
    SpecError: a figure that a search does not have.
    """
    measured = [figure_name(b) for b in space.benchmarks]
    costs = [c for c in COSTS if c != "memory" or space.cluster.gpus_per_worker] + list(SPEEDS)
    for objective in objectives_of(space):
        if objective.figure == "memory" and "memory" not in costs:
            raise SpecError(
                "objectives: memory is that of GPUs, and cluster.gpus_per_worker is 0; leave it out, or take parameters"
            )
        if objective.figure not in [*measured, *costs]:
            raise SpecError(
                f"objectives: {objective.figure!r} is no figure of this search"
                f"{nearest(objective.figure, measured + costs)}; "
                f"there are its benchmarks: {', '.join(measured)}; and: {', '.join(costs)}"
            )


def speed_benchmark(space: Space) -> str:
    """The benchmark by whose questions variants' speed is measured; empty if no objective asks for it."""
    asked = any(o.figure in SPEEDS for o in space.objectives)
    return space.champion.benchmark if asked else ""


def figures_of(outcome: Outcome, variant: Variant, lineage: Sequence[StageRun], store: Store) -> dict[str, float]:
    """A measured variant's headline scores, and its COSTS and SPEEDS as far as they are known."""
    steps = [journal.steps_of(store.journal(run)) for run in lineage]
    memory = [step["memory"] for step in steps[-1] if step.get("memory")]
    found = {figure_name(name): score.accuracy for name, score in outcome.scores.items()}
    found |= cost(variant, lineage[-1], store) | {"steps": float(sum(map(len, steps)))}
    for folder in outcome.reports.values():
        if speed := answer_speed.read(folder):
            found |= answer_speed.figures(speed)
    return found | ({"memory": max(memory)} if memory and variant.cluster.gpus_per_worker else {})


def pareto_set(objectives: Sequence[Objective], figures: Mapping[str, Mapping[str, float]]) -> ParetoSet | None:
    """Of measured variants by their figures; None with a single objective."""
    if len(objectives) < 2:
        return None
    signs = {o.figure: 1.0 if o.direction == "max" else -1.0 for o in objectives}
    known = {name: {f: has[f] for f in signs} for name, has in figures.items() if signs.keys() <= has.keys()}
    best = front([[signs[f] * value for f, value in has.items()] for has in known.values()])
    points = [ParetoPoint(name, has, on) for (name, has), on in zip(known.items(), best, strict=True)]
    first = objectives[0].figure
    points.sort(key=lambda p: (not p.front, -signs[first] * p.figures[first]))
    directions = {o.figure: str(o.direction) for o in objectives}
    return ParetoSet(directions, tuple(points), tuple(n for n in figures if n not in known))
