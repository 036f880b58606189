"""Axes of a space: a stage's key by its dotted name, with values or a range, and a condition for its existence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, log10
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator

from remora.errors import nearest
from remora.spec.base import Spec, keys_of, models_in
from remora.spec.messages import found
from remora.spec.recipe import MixtureEntry, Stage
from remora.spec.tuning import MODES, PARTS, PartTuning

LABEL = re.compile(r"[A-Za-z0-9_.+-]{1,40}")
OWN = re.compile(r"[a-z][a-z0-9_-]{0,39}")
"""Names of axes whose values set several keys."""
DIGITS = 4
"""Significant digits of numbers of a range, so that a variant's name has the exact number."""


@dataclass(frozen=True)
class Choice:
    """An axis of listed values, each with its label for variant names. Values are JSON."""

    values: tuple[object, ...]
    labels: tuple[str, ...]

    def label(self, value: object) -> str:
        return self.labels[self._index(value)]

    def find(self, said: object) -> object:
        """The value that equals `said`, or has it as its label.

        Raises:
            ValueError: the axis has no such value.
        """
        return self.values[self._index(said)]

    def _index(self, said: object) -> int:
        for i, value in enumerate(self.values):
            if value == said and isinstance(value, bool) == isinstance(said, bool):
                return i
        if isinstance(said, str) and said in self.labels:
            return self.labels.index(said)
        raise ValueError(f"{found(said)} is none of its values: {_listed(self.labels)}")


@dataclass(frozen=True)
class Range:
    """An axis of numbers from `low` to `high` (inclusive); with `log`, sampled uniformly in the logarithm."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def find(self, said: object) -> float | int:
        """`said` as a number of the range: an integer, or a number with DIGITS significant digits.

        Raises:
            ValueError: it is not a number, or is outside the range.
        """
        if isinstance(said, bool) or not isinstance(said, int | float) or not self.low <= said <= self.high:
            raise ValueError(f"{found(said)} is no number from {figure(self.low)} to {figure(self.high)}")
        if self.integer:
            return round(said)
        rounded = round(said, DIGITS - 1 - floor(log10(abs(said)))) if said else 0.0
        return min(max(rounded, self.low), self.high)

    def label(self, value: object) -> str:
        return figure(self.find(value))

    @property
    def ends(self) -> Choice:
        """An axis of only its two ends."""
        values = (self.find(self.low), self.find(self.high))
        return Choice(values, tuple(map(self.label, values)))


Axis = Choice | Range


def _listed(labels: tuple[str, ...], most: int = 12) -> str:
    shown = ", ".join(label if len(label) <= 40 else f"{label[:37]}..." for label in labels[:most])
    return shown if len(labels) <= most else f"{shown} and {len(labels) - most} more"


def figure(number: float) -> str:
    """A number in as few characters as possible: 1e-4, 0.03, 256."""
    plain = repr(int(number)) if float(number).is_integer() and abs(number) < 1e6 else repr(number)
    mantissa, _, exponent = f"{number:.15e}".partition("e")
    short = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return short if len(short) < len(plain) else plain


def label_of(value: object) -> str | None:
    """The default label of a value; None if it needs an explicit one."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, int | float):
        return figure(value)
    if isinstance(value, str):
        return re.sub(r"[^A-Za-z0-9_.+-]", "_", value).lstrip("_.+-") or None
    if isinstance(value, list | tuple):
        parts = [label_of(item) for item in value]
        return "+".join(p for p in parts if p) if parts and all(parts) else None
    if isinstance(value, dict) and len(value) == 1:  # {last: 6}
        ((key, inner),) = value.items()
        return f"{key}{figure(inner)}" if isinstance(inner, int | float) else None
    return None


def _condition(value: object) -> object:
    return (
        {k: v if isinstance(v, list | tuple) else (v,) for k, v in value.items()} if isinstance(value, dict) else value
    )


When = Annotated[
    dict[str, tuple[object, ...]],
    Field(min_length=1),
    BeforeValidator(_condition),
    WithJsonSchema({"type": "object", "minProperties": 1}),
]
"""A partial assignment: it holds if every axis in it has the given value, or one of those listed. A value may be given
by its label."""


class AxisSpec(Spec):
    """An axis as written in YAML: a list of values, labels with their values, or a range."""

    values: Annotated[dict[str, object] | None, WithJsonSchema({"type": ["array", "object", "null"]})] = None
    """Label -> value; for a list, labels follow from the values."""
    low: float | None = None
    """The range's lower end, included."""
    high: float | None = None
    """The range's upper end, included."""
    log: bool = False
    """Whether numbers of the range are sampled uniformly in their logarithm."""
    integer: bool = False
    """Whether they are integers."""
    when: When | None = None
    """The axis exists only if this holds; it may only name earlier axes."""

    @classmethod
    def short_forms(cls) -> tuple[dict[str, object], ...]:
        keys = [{"required": [key]} for key in cls.model_fields]
        return {"type": "array"}, {"type": "object", "not": {"anyOf": keys}}

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        if isinstance(value, list | tuple) or (isinstance(value, dict) and not value.keys() & cls.model_fields.keys()):
            value = {"values": value}
        if not isinstance(value, dict):
            return value
        if isinstance(values := value.get("values"), list | tuple):
            value = value | {"values": _labelled(values)}
        return value

    @model_validator(mode="after")
    def _values_or_range(self) -> Self:
        if (self.values is None) == (self.low is None and self.high is None):
            raise ValueError("give either values or a range: [1, 2], {label: value, …} or {low: 1, high: 2}")
        if self.values is not None:
            if not self.values:
                raise ValueError("has no values")
            for label in self.values:
                if not LABEL.fullmatch(label):
                    raise ValueError(f"{label[:50]!r} is no label: 1 to 40 letters, digits and ._+-")
            if self.log or self.integer:
                raise ValueError("log and integer are for ranges")
            return self
        if self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("a range needs low and high, the lower first")
        if self.log and self.low <= 0:
            raise ValueError(f"log: true needs a range above 0, and low is {figure(self.low)}")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("integer: true needs whole numbers as its ends")
        return self

    @property
    def axis(self) -> Axis:
        if self.values is not None:
            return Choice(tuple(self.values.values()), tuple(self.values))
        assert self.low is not None and self.high is not None
        return Range(self.low, self.high, self.log, self.integer)


def _labelled(values: list[object] | tuple[object, ...]) -> dict[str, object]:
    labelled: dict[str, object] = {}
    for value in values:
        label = label_of(value)
        if label is None:
            raise ValueError(f"{str(value)[:60]} has no short name; write labels: {{label: value, …}}")
        if label in labelled:
            raise ValueError(f"{label} is listed twice")
        labelled[label] = value
    return labelled


@dataclass(frozen=True)
class Key:
    """A key of a stage by its dotted name; for a mixture entry, ("mixture", its dataset's name, the entry's key)."""

    stage: str | None
    """None means every stage of the recipe."""
    path: tuple[str, ...]


def stage_key(name: str) -> Key:
    """Parse a name such as `finetune.lr`, `template` or `finetune.mixture.llava-mix-665k.weight`.

    Raises:
        ValueError: stages have no such key.
    """
    first, *rest = name.split(".")
    every = first in keys_of(Stage)
    path = (first, *rest) if every else tuple(rest)
    if path[:1] == ("mixture",) and len(path) > 1:
        entry, _, key = ".".join(path[1:]).rpartition(".")
        if not entry or key not in MixtureEntry.model_fields:
            keys = ", ".join(MixtureEntry.model_fields)
            raise ValueError(f"after mixture comes a dataset of it and one of its keys: {keys} (mixture.NAME.weight)")
        return Key(None if every else first, ("mixture", entry, key))
    model: type[BaseModel] | None = Stage
    for i, part in enumerate(path):
        fields = keys_of(model) if model else {}
        known = [k for k in fields if (model, k) != (Stage, "name")]
        known += MODES[:2] if model is PartTuning else ()
        if part not in known:
            there = f"known: {', '.join(known)}" if known else f"{path[i - 1]} has none"
            raise ValueError(f"unknown key {part!r}{nearest(part, known)} ({there})")
        model = next(iter(models_in(fields[part])), None) if part in fields else None
    if not path:
        raise ValueError(f"{name!r} is no key of a stage{nearest(name, keys_of(Stage))}")
    return Key(None if every else first, path)


def _axis_name(name: str) -> str:
    if name in (*PARTS, "recipe", "seed"):
        raise ValueError(f"write it beside axes: {'seeds' if name == 'seed' else name}: […]")
    if "." in name or name in keys_of(Stage):
        stage_key(name)
    elif not OWN.fullmatch(name):
        raise ValueError(f"{name[:50]!r} is no name of an axis: a stage's key, or small letters, digits, _ and -")
    return name


AxisName = Annotated[str, AfterValidator(_axis_name)]
"""A key of a stage, or a name of your choice for values that set several keys."""


def is_key(name: str) -> bool:
    """Whether an axis of that name sets a single key of a stage."""
    return "." in name or name in Stage.model_fields


def changes(name: str, value: object) -> Mapping[str, object]:
    """The keys of stages that a value of the axis sets, by their dotted names."""
    if is_key(name):
        return {name: value}
    if not isinstance(value, dict):
        raise ValueError(
            f"{name!r} is no key of a stage{nearest(name, Stage.model_fields)}; an axis of that name has labels, each "
            "with the keys that it sets: {label: {finetune.lr: 1.0e-4, finetune.batch: 64}, …}"
        )
    for key in value:
        stage_key(key)
    return value


def short_names(names: list[str]) -> dict[str, str]:
    """Every axis by the shortest unique end of its name: `lr` for `finetune.lr`."""
    ends = {n: [n] if not is_key(n) else [n.split(".", i)[-1] for i in range(n.count("."), -1, -1)] for n in names}
    taken = [end for options in ends.values() for end in options]
    return {n: next((end for end in options if taken.count(end) == 1), n) for n, options in ends.items()}
