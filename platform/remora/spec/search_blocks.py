"""The blocks of a space: cases, and how it samples, what it stops, what it may spend and how it chooses."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from remora.spec.axes import When
from remora.spec.base import Spec

MOST_VARIANTS = 10_000


class Champion(Spec):
    """How a search chooses its champion."""

    benchmark: str
    """The benchmark that decides. Use one that you do not report."""
    prefer: Literal["best", "cheapest"] = "best"
    """best: the highest figure. cheapest: of the variants that do not differ significantly from it, the one with the
    fewest parameters, then picture tokens."""
    register_as: str = "remora"
    """Model name in the registry. The chosen variant gets the alias `champion`, unless it is significantly worse than
    the one that has it (the gate of `remora promote`)."""


class Case(Spec):
    """Overrides for some variants: of one recipe, encoder, language model, or value of an axis."""

    when: When
    """Axis to the values for which the overrides hold."""
    overrides: dict[str, dict[str, object]] = Field(min_length=1)
    """Like the space's overrides; if both have a key, these win."""


class Sampler(Spec):
    """Which variants a search tries, and in which order."""

    kind: Literal["grid", "random", "optuna"] = "grid"
    """grid: all. random: `trials` of them. optuna: `trials`, each chosen from the results so far (TPE)."""
    trials: int | None = Field(None, ge=1, le=MOST_VARIANTS)
    """Variants to try (random, optuna)."""
    seed: int = Field(0, ge=0)
    """Decides which variants are drawn."""

    @model_validator(mode="after")
    def _trials_belong(self) -> Self:
        if self.kind == "grid" and self.trials:
            raise ValueError("a grid tries every variant; leave trials out, or take kind: random")
        if self.kind != "grid" and not self.trials:
            raise ValueError(f"kind {self.kind} needs trials: how many variants to try")
        return self


class Rule(Spec):
    """Which variants are stopped in their last stage, and when."""

    kind: Literal["none", "halving", "median"] = "none"
    """halving: at each rung one of `eta` continues. median: a variant below the median of the others at a rung
    stops."""
    eta: int = Field(3, ge=2)
    """Each rung is this many times as far as the previous one, and keeps one of this many variants (halving)."""
    first: float = Field(0.1, gt=0, lt=1)
    """Position of the first rung, as a fraction of the last stage's samples."""
    least: int = Field(3, ge=2)
    """Minimum variants at a rung before one is stopped (median)."""
    figure: str | None = None
    """What rungs compare: `loss` (default), or the benchmark that the last stage's `validate.benchmark` measures."""


COSTS = ("parameters", "picture_tokens", "steps", "memory")
"""What is counted of every variant: parameters of all its parts; embeddings that a picture becomes; optimiser steps of
all its stages; the last stage's peak of GPU memory, in GiB a worker."""
SPEEDS = ("answers_per_second", "answering_memory")
"""What is measured of every variant while it answers, if a space's objectives have one: answers a second, and the peak
of memory in GiB (`pipeline.answer_speed` says how)."""


class Objective(Spec):
    """A figure that a search maximises or minimises. A plain string is its name."""

    figure: str
    """One of the space's benchmarks (its headline score), of COSTS or of SPEEDS."""
    direction: Literal["max", "min"] = "max"
    """Default: max for a score and for answers a second, min for a cost and for memory."""

    @classmethod
    def short_forms(cls) -> tuple[dict[str, object], ...]:
        return ({"type": "string"},)

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        said = {"figure": value} if isinstance(value, str) else value
        if isinstance(said, dict) and said.get("figure") in (*COSTS, "answering_memory"):
            return {"direction": "min"} | said
        return said


class Budget(Spec):
    """Limits of a search. Once one of them is reached nothing more is begun; what runs goes on to its rung or its end.
    What is trained by then is measured."""

    trials: int | None = Field(None, ge=1)
    """Variants that are taken up, in the space's or the sampler's order."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps of all stage runs together."""
    hours: float | None = Field(None, gt=0)
    """Wall-clock hours."""
    gpu_hours: float | None = Field(None, gt=0)
    """Hours of all items, times the GPUs of their group; of an elastic group the least."""
    cost: float | None = Field(None, gt=0)
    """Money, in the unit of the prices."""


class Expect(Spec):
    """What a plan without any data gives for the space. A test recomputes it for shipped spaces."""

    variants: int = Field(ge=1)
    """Variants of the space."""
    stage_runs: int = Field(ge=1)
    """Distinct stage runs of all of them."""
    steps: int = Field(ge=1)
    """Optimiser steps of those."""
    samples: int = Field(ge=1)
    """Samples that they read."""
