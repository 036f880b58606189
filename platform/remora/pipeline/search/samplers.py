"""Which variants a search tries, where that depends on no result: all of a grid, or some by chance."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from remora.errors import SpecError
from remora.pipeline.search.board import Reached
from remora.pipeline.search.work import Trial
from remora.spec import Space
from remora.spec.axes import Axis, Range

log = logging.getLogger(__name__)
VAIN = 200
"""Draws in a row that may give nothing new before a space is taken to be exhausted."""

Make = Callable[[Mapping[str, object]], Trial]
"""The trial of an assignment. SpecError: the space leaves it out, or it makes no model."""


class Listed:
    """Trials that are known beforehand."""

    closed = True

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._left = deque(trials)

    @property
    def left(self) -> int:
        return len(self._left)

    def ask(self) -> Trial | None:
        return self._left.popleft() if self._left else None

    def tell(self, trial: Trial, reached: Reached | None) -> None:
        """Nothing depends on it."""


def drawn(space: Space, make: Make, trials: int, seed: int) -> list[Trial]:
    """That many different trials by chance; fewer if the space has no more. The n-th draw depends on `seed` and n."""
    found: dict[str, Trial] = {}
    number = vain = 0
    while len(found) < trials and vain < VAIN:
        dice = random.Random(f"{seed}/{number}")
        number, vain = number + 1, vain + 1
        assignment = assigned(space, partial(_drawn, dice))
        try:
            trial = make(assignment)
        except SpecError as e:
            log.info("%s: %s", assignment, e)
            continue
        if trial.name not in found:
            found[trial.name], vain = trial, 0
    return list(found.values())


def assigned(space: Space, pick: Callable[[str, Axis], object]) -> dict[str, object]:
    """A value for each axis that exists, as `pick` has it; whether one exists may depend on those before it."""
    assignment: dict[str, object] = {}
    for name, axis in space.domain().items():
        if name in space.active(assignment):
            assignment[name] = pick(name, axis)
    return assignment


def _drawn(dice: random.Random, name: str, axis: Axis) -> object:
    return by_chance(axis, dice)


def by_chance(axis: Axis, dice: random.Random) -> object:
    """A value of an axis."""
    if not isinstance(axis, Range):
        return dice.choice(axis.values)
    if axis.log:
        return axis.find(axis.low * (axis.high / axis.low) ** dice.random())
    return axis.find(dice.randint(int(axis.low), int(axis.high)) if axis.integer else dice.uniform(axis.low, axis.high))
