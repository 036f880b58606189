"""Published models (as variants) and their reported scores."""

from __future__ import annotations

from math import isclose
from typing import Literal, Self

from pydantic import Field, model_validator

from remora.spec import Spec, Variant


class Reported(Spec):
    """The scores of a model in one source."""

    scores: dict[str, float]
    """Benchmark, or benchmark.figure (mme.cognition, mmbench.test), to the score in the unit of the source."""
    source: str
    """The paper, page or table."""


class Scores(Reported):
    """The reported scores of a model, under its name in published.yaml if it has one."""

    also: tuple[str, ...] = ()
    """Other names of the model in papers and repositories."""
    others: tuple[Reported, ...] = ()
    """Further sources: only scores that the first does not have, or that differ from it."""

    @property
    def merged(self) -> dict[str, float]:
        """Every score; where sources differ, the first one's."""
        return {k: v for report in (*reversed(self.others), self) for k, v in report.scores.items()}

    @property
    def differing(self) -> dict[str, tuple[float, ...]]:
        """Scores for which sources differ, the first source's value first."""
        found: dict[str, dict[float, None]] = {}
        for report in (self, *self.others):
            for key, value in report.scores.items():
                found.setdefault(key, {})[value] = None
        return {key: tuple(values) for key, values in found.items() if len(values) > 1}


class Averaged(Spec):
    """One of several models whose weights are averaged into a published one."""

    recipe: str
    """The recipe that it was trained by."""
    overrides: dict[str, dict[str, object]] = Field(default_factory=dict)
    """Overrides of that recipe's stages."""
    weight: float = Field(gt=0, lt=1)
    """Its share of the average."""


class PublishedModel(Spec):
    """A model that a paper reports: its parts, recipe and published size."""

    vision: str
    """Its encoder, by the catalog's name."""
    connector: str
    """Its connector."""
    llm: str
    """Its language model."""
    recipe: str
    """With `average`, the recipe of the model whose settings the average keeps."""
    overrides: dict[str, dict[str, object]] = Field(default_factory=dict)
    """Overrides of the recipe's stages, as in a variant."""
    average: tuple[Averaged, ...] = ()
    """The other models to average with it, and their weights; its own weight is the rest of 1."""
    size: str | None = None
    """Parameters as published (3.1B); None if the paper does not give them."""
    counted: Literal["rounded", "cut", "no-embeddings"] = "rounded"
    """How `size` follows from the parts: the rounded total; encoder and llm each truncated to one decimal and added; or
    the rounded total without the llm's embedding table and output head."""
    source: str
    """Where the facts come from."""

    @model_validator(mode="after")
    def _leaves_itself_a_weight(self) -> Self:
        total = sum(a.weight for a in self.average)
        if total > 1 or isclose(total, 1):
            raise ValueError(f"the weights of average add up to {total:g}, which leaves nothing for the model itself")
        return self

    def variant(self, name: str) -> Variant:
        """The model as a variant of that name, to plan or train; for an average, the one whose settings it keeps."""
        return Variant(
            name=name, **{k: getattr(self, k) for k in ("vision", "connector", "llm", "recipe", "overrides")}
        )

    def variants(self, name: str) -> dict[str, tuple[Variant, float]]:
        """Every variant to train for the model, by name, with its weight in the average."""
        own = self.variant(name)
        found = {name: (own, 1 - sum(a.weight for a in self.average))}
        for i, other in enumerate(self.average, 1):
            named = f"{name}-{i}"
            changes = {"name": named, "recipe": other.recipe, "overrides": other.overrides}
            found[named] = own.model_copy(update=changes), other.weight
        return found
