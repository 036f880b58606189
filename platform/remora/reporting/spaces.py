"""A space in words: its axes, how many variants it has, and which combinations make no model."""

from __future__ import annotations

from collections.abc import Iterator

from remora.runs import Survey
from remora.spec import Axis, Choice, Space
from remora.spec.axes import figure


def space_lines(survey: Survey) -> Iterator[str]:
    """What to know of a space before its variants; nothing of a single variant."""
    space = survey.space
    if space is None:
        return
    count, of = len(survey.variants), ""
    if space.sampler.kind != "grid":
        of = f"; sampled: {space.sampler.trials} trials ({space.sampler.kind}), shown at the ends of each range"
    yield f"space {space.name}: {count} variant{'s' * (count != 1)}{of}"
    domain = space.domain()
    width = max(map(len, domain))
    for name, axis in domain.items():
        yield f"  {name:<{width}}  {_values(axis)}{_condition(space, name)}"
    for name, why in survey.pruned:
        yield f"pruned: {name}: {why}"


def _values(axis: Axis) -> str:
    if isinstance(axis, Choice):
        return ", ".join(axis.labels)
    kinds = [word for word, there in (("log", axis.log), ("integer", axis.integer)) if there]
    return f"{figure(axis.low)} to {figure(axis.high)}{' (' + ', '.join(kinds) + ')' if kinds else ''}"


def _condition(space: Space, name: str) -> str:
    spec = space.axes.get(name)
    if spec is None or not spec.when:
        return ""
    said = "; ".join(f"{axis} {' or '.join(map(str, values))}" for axis, values in spec.when.items())
    return f", when {said}"
