"""Spaces: what a search may choose from, how it samples, what it stops and how it chooses (docs/searching.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import prod
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, WithJsonSchema, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from remora.errors import SpecError, nearest
from remora.spec.axes import Axis, AxisName, AxisSpec, Choice, Range, When, changes, stage_key
from remora.spec.base import FileName, whole_numbers
from remora.spec.messages import found
from remora.spec.paths import YAMLS
from remora.spec.search_blocks import MOST_VARIANTS, Budget, Case, Champion, Expect, Objective, Rule, Sampler
from remora.spec.strict_yaml import KeyLines
from remora.spec.variant import Job

MOST_SEEDS = 1_000
_SEED: dict[str, object] = {"type": "integer", "minimum": 0}
COUNT_OR_LIST: dict[str, object] = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MOST_SEEDS},
        {"type": "array", "items": _SEED, "uniqueItems": True, "maxItems": MOST_SEEDS},
    ]
}
"""The JSON schema of how many seeds, or of a list of them."""
MOST_COMBINATIONS = 1_000_000
"""Maximum combinations that are enumerated before `when`, `only` and `exclude`."""
FIXED = ("recipe", "vision", "llm", "connector")
"""The axes of every space, slowest first, so that variants that share early stages are adjacent."""


class Space(Job):
    """What a search may choose from: every combination of the lists is a variant."""

    name: FileName
    """Its name, and that of its file in the run folder."""
    vision: tuple[str, ...] = Field(min_length=1)
    """Encoders to try."""
    connector: tuple[str, ...] = Field(min_length=1)
    """Connectors to try."""
    llm: tuple[str, ...] = Field(min_length=1)
    """Language models to try."""
    recipe: tuple[str, ...] = Field(min_length=1)
    """Recipes to try, by name or path."""
    axes: dict[AxisName, AxisSpec] = Field(default_factory=dict)
    """Keys of stages by their dotted names, or names of your choice for values that set several keys."""
    seeds: Annotated[int | tuple[int, ...], WithJsonSchema(COUNT_OR_LIST)] = ()
    """Seeds for every variant: this many from `seed` on, or a list."""
    cases: tuple[Case, ...] = ()
    """Overrides for some variants, in this order."""
    exclude: tuple[When, ...] = ()
    """Combinations to leave out."""
    only: tuple[When, ...] = ()
    """If given, only combinations of one of these are variants."""
    champion: Champion
    sampler: Sampler = Sampler()
    rule: Rule = Rule()
    objectives: tuple[Objective, ...] = ()
    """What the sampler learns from. Default: the champion's benchmark. Several give a Pareto set."""
    budget: Budget = Budget()
    concurrent: int | None = Field(None, ge=1)
    """Concurrent trials; default: as many as the cluster's CPUs and GPUs allow."""
    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Variant -> benchmark -> published score, which a report shows beside ours."""
    expect: Expect | None = None
    smoke: dict[str, object] = Field(default_factory=dict)
    """Replacements of the space's keys for a trial run of minutes (`remora search FILE --smoke`); null removes a
    key."""
    settings: dict[str, object] = Field(default_factory=dict, exclude_if=lambda settings: not settings)
    """Keys of stages by their dotted names, which win over `overrides` and `cases`: what `--set` gives."""

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_or_list(cls, said: object) -> object:
        several, listed = isinstance(said, list | tuple), whole_numbers(said)
        whole = all(n >= 0 for n in listed) and len(set(listed)) == len(listed) <= MOST_SEEDS
        if not (whole and (listed or said == [])) or (not several and not 1 <= listed[0] <= MOST_SEEDS):
            raise ValueError(
                f"{found(said)} is neither a number of seeds from 1 to {MOST_SEEDS:,} nor a list of different ones"
            )
        return tuple(listed) if several else listed[0]

    @field_validator("axes")
    @classmethod
    def _set_keys_of_stages(cls, axes: dict[str, AxisSpec]) -> dict[str, AxisSpec]:
        for name, axis in axes.items():
            try:
                for value in (axis.values or {}).values():
                    changes(name, value)
                if axis.values is None:
                    changes(name, axis.low)
            except ValueError as e:
                raise _problem((name,), str(e)) from None
        return axes

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        figures = [o.figure for o in objectives]
        if twice := [f for f in figures if figures.count(f) > 1]:
            raise ValueError(f"{twice[0]} is listed twice")
        return objectives

    @field_validator("smoke")
    @classmethod
    def _replaces_known_keys(cls, smoke: dict[str, object]) -> dict[str, object]:
        known = [k for k in cls.model_fields if k not in ("name", "published", "expect", "smoke", "settings")]
        for key in smoke:
            if key not in known:
                raise _problem((key,), f"smoke cannot replace it{nearest(key, known)} (it can: {', '.join(known)})")
        return smoke

    @field_validator("settings")
    @classmethod
    def _are_keys_of_stages(cls, settings: dict[str, object]) -> dict[str, object]:
        for key in settings:
            stage_key(key)
        return settings

    @model_validator(mode="after")
    def _conditions_name_what_there_is(self) -> Self:
        domain = self.domain()
        order = list(domain)
        said: list[tuple[tuple[str | int, ...], When, list[str]]] = [
            (("axes", n, "when"), a.when, order[: order.index(n)]) for n, a in self.axes.items() if a.when
        ]
        said += [(("cases", i, "when"), case.when, order) for i, case in enumerate(self.cases)]
        said += [(("exclude", i), condition, order) for i, condition in enumerate(self.exclude)]
        said += [(("only", i), condition, order) for i, condition in enumerate(self.only)]
        for at, condition, known in said:
            for name, values in condition.items():
                if name not in known:
                    raise _problem((*at, name), _unknown(name, known, name in order))
                axis = domain[name]
                try:
                    if isinstance(axis, Range):
                        raise ValueError("it is a range, and a condition names listed values")
                    for value in values:
                        axis.find(value)
                except ValueError as e:
                    raise _problem((*at, name), str(e)) from None
        return self

    @model_validator(mode="after")
    def _can_be_listed(self) -> Self:
        domain = self.domain()
        ranges = [name for name, axis in domain.items() if isinstance(axis, Range)]
        if self.sampler.kind != "grid":
            return self
        if ranges:
            raise _problem(("axes", ranges[0]), _endless(ranges))
        count = prod(len(axis.values) for axis in domain.values() if isinstance(axis, Choice))
        if count > MOST_VARIANTS and (self.exclude or self.only or any(a.when for a in self.axes.values())):
            count = count if count > MOST_COMBINATIONS else sum(1 for _ in islice(self.grid(), MOST_VARIANTS + 1))
        if count > MOST_VARIANTS:
            raise ValueError(
                f"{count:,} variants, and a space has {MOST_VARIANTS:,} at most; shorten its lists, or sample them "
                "(sampler: {kind: random, trials: 100})"
            )
        return self

    def domain(self) -> dict[str, Axis]:
        """Every axis by name: recipe, vision, llm and connector, then `axes` in the order of the file, then seed."""
        domain: dict[str, Axis] = {}
        for name in FIXED:
            values = getattr(self, name)
            domain[name] = Choice(values, tuple(Path(v).stem if v.endswith(YAMLS) else v for v in values))
        domain |= {name: spec.axis for name, spec in self.axes.items()}
        if self.seeds:
            seeds = tuple(range(self.seed, self.seed + self.seeds)) if isinstance(self.seeds, int) else self.seeds
            domain["seed"] = Choice(seeds, tuple(map(str, seeds)))
        return domain

    def active(self, assignment: Mapping[str, object]) -> tuple[str, ...]:
        """The axes that exist for an assignment, in the domain's order: those whose `when` holds."""
        domain = self.domain()
        active: list[str] = []
        for name in domain:
            if self._exists(name, {k: assignment[k] for k in active if k in assignment}, domain):
                active.append(name)
        return tuple(active)

    def excluded(self, assignment: Mapping[str, object]) -> str | None:
        """Why the space's `exclude` or `only` leaves out an assignment; None if it does not."""
        return self._left_out(assignment, self.domain())

    def holds(self, condition: When, assignment: Mapping[str, object]) -> bool:
        """Whether the assignment has one of the listed values for each axis of the condition."""
        return _holds(condition, assignment, self.domain())

    def grid(self) -> Iterator[dict[str, object]]:
        """Every assignment of the space, the first axis slowest: a value for each axis that exists for it.

        Raises:
            SpecError: an axis is a range, so there are infinitely many.
        """
        domain = self.domain()
        if ranges := [name for name, axis in domain.items() if isinstance(axis, Range)]:
            raise SpecError(_endless(ranges))
        return self._combinations(list(domain.items()), {}, domain)

    def corners(self) -> Iterator[dict[str, object]]:
        """The grid with each range replaced by its two ends, which a plan shows for a sampled space."""
        domain = {name: axis.ends if isinstance(axis, Range) else axis for name, axis in self.domain().items()}
        return self._combinations(list(domain.items()), {}, domain)

    def _combinations(
        self, axes: Sequence[tuple[str, Axis]], chosen: dict[str, object], domain: Mapping[str, Axis]
    ) -> Iterator[dict[str, object]]:
        if not axes:
            if self._left_out(chosen, domain) is None:
                yield chosen
            return
        (name, axis), *rest = axes
        if not self._exists(name, chosen, domain):
            yield from self._combinations(rest, chosen, domain)
            return
        assert isinstance(axis, Choice)
        for value in axis.values:
            yield from self._combinations(rest, chosen | {name: value}, domain)

    def _exists(self, name: str, chosen: Mapping[str, object], domain: Mapping[str, Axis]) -> bool:
        spec = self.axes.get(name)
        return spec is None or spec.when is None or _holds(spec.when, chosen, domain)

    def _left_out(self, chosen: Mapping[str, object], domain: Mapping[str, Axis]) -> str | None:
        for condition in self.exclude:
            if _holds(condition, chosen, domain):
                return f"exclude: {_said(condition)}"
        if self.only and not any(_holds(condition, chosen, domain) for condition in self.only):
            return f"only: {'; '.join(map(_said, self.only))}"
        return None


def smoked(raw: object, lines: KeyLines, file: str) -> tuple[object, KeyLines]:
    """The content of a space's file with its smoke block applied, and the lines of its keys.

    Its champion is another registered model, with `-smoke` behind the name: what a trial run finds never takes the
    alias of the model that is served.

    Raises:
        SpecError: it has no smoke block.
    """
    content = raw if isinstance(raw, dict) else {}
    smoke = content.get("smoke")
    if not isinstance(smoke, dict) or not smoke:
        raise SpecError(
            f"{file} has no smoke: block, which says what a trial run of minutes replaces; leave --smoke out"
        )
    kept = {k: v for k, v in content.items() if k not in ("smoke", "published", "expect")} | smoke
    changed = {k: v for k, v in kept.items() if v is not None} | {"name": f"{content.get('name')}-smoke"}
    if isinstance(champion := changed.get("champion"), dict):
        whole = content["champion"] if isinstance(content.get("champion"), dict) else {}
        name = champion.get("register_as", whole.get("register_as", Champion.model_fields["register_as"].default))
        changed["champion"] = champion | {"register_as": f"{name}-smoke"}
    own = {k: n for k, n in lines.items() if k[0] not in smoke}
    return changed, own | {k[1:]: n for k, n in lines.items() if k[0] == "smoke" and len(k) > 1}


def _holds(condition: When, chosen: Mapping[str, object], domain: Mapping[str, Axis]) -> bool:
    return all(
        name in chosen and any(domain[name].find(v) == domain[name].find(chosen[name]) for v in values)
        for name, values in condition.items()
    )


def _said(condition: When) -> str:
    return ", ".join(f"{name} {' or '.join(map(str, values))}" for name, values in condition.items())


def _unknown(name: str, known: Sequence[str], later: bool) -> str:
    if later:
        return f"a condition of an axis names those before it: {', '.join(known)}"
    return f"no axis of that name{nearest(name, known)}; there are: {', '.join(known)}"


def _endless(ranges: Sequence[str]) -> str:
    return (
        f"a grid has no end over the range of {', '.join(ranges)}; list its values, or sample them "
        "(sampler: {kind: random, trials: 20})"
    )


def _problem(at: tuple[str | int, ...], text: str) -> ValidationError:
    """A validation error at a nested position of a validator's input."""
    error = PydanticCustomError("value_error", "{error}", {"error": text})
    return ValidationError.from_exception_data("space", [InitErrorDetails(type=error, loc=at, input=None)])
