"""The Pareto front against its definition."""

from __future__ import annotations

import random

from remora.evaluation.pareto import front


def test_the_front_is_what_nothing_beats() -> None:
    dice = random.Random(0)
    for _ in range(300):
        figures = dice.randint(1, 4)
        points = [tuple(dice.randint(1, 4) for _ in range(figures)) for _ in range(dice.randint(0, 12))]
        by_definition = [
            not any(other != own and all(a >= b for a, b in zip(other, own, strict=True)) for other in points)
            for own in points
        ]
        assert front(points) == by_definition, points
