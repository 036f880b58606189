"""GQA's distribution: how far the counts of a model's answers are from the true ones, by group of questions.

eval.py of GQA sums chi-square over the groups, weighted by their questions, and divides by a hundred. That is not a
ratio of sums. But it is homogeneous in the questions' weights (doubling every question doubles the figure), so it is
the sum of its derivatives by them (Euler): the figure is exactly a mean of one number per question, and resampling
these gives its first-order interval.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from remora.evaluation.figures import Figure, ratio


def distribution(groups: Sequence[str | None], gold: Sequence[str], said: Sequence[str]) -> dict[str, Figure]:
    """The figure, lower is better; empty if no question has a group."""
    expected: dict[str, Counter[str]] = defaultdict(Counter)
    observed: dict[str, Counter[str]] = defaultdict(Counter)
    for group, right, answer in zip(groups, gold, said, strict=True):
        if group is not None:
            expected[group][right] += 1
            observed[group][answer] += 1
    if not expected:
        return {}
    chi = {g: sum((observed[g][a] - e) ** 2 / e for a, e in counts.items()) for g, counts in expected.items()}
    size = {g: counts.total() for g, counts in expected.items()}
    everything = sum(size.values())
    found = sum(chi[g] * size[g] for g in expected) / everything
    parts = []
    for group, right, answer in zip(groups, gold, said, strict=True):
        if group is None:
            parts.append(0.0)
            continue
        apart = (observed[group][right] - expected[group][right]) / expected[group][right]
        slope = -2 * apart - apart**2
        if e := expected[group].get(answer):
            slope += 2 * (observed[group][answer] - e) / e
        parts.append((chi[group] + size[group] * slope - found) / everything)
    return {"distribution": ratio([p * len(parts) for p in parts], [1] * len(parts), 1 / 100)}
