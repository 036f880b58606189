"""What papers report: models as variants, and their scores."""

from __future__ import annotations

from math import isclose
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from remora.spec import Spec, Variant


class Reported(Spec):
    """What one source reports of a model."""

    scores: dict[str, float]
    """Benchmark, or benchmark.figure (mme.cognition, mmbench.test), to its figure in the unit that is printed."""
    source: str


class Scores(Reported):
    """What is reported of a model, under the name that it has in published.yaml if it is one of those."""

    also: tuple[str, ...] = ()
    """Other names that papers and repositories give it."""
    others: tuple[Reported, ...] = ()
    """Further sources: cells that the first does not have, and those where they differ."""

    @property
    def merged(self) -> dict[str, float]:
        """Every cell; where sources differ, the first one's."""
        return {k: v for report in (*reversed(self.others), self) for k, v in report.scores.items()}

    @property
    def differing(self) -> dict[str, tuple[float, ...]]:
        """Cells of which sources report more than one figure, the first source's first."""
        found: dict[str, dict[float, None]] = {}
        for report in (self, *self.others):
            for key, value in report.scores.items():
                found.setdefault(key, {})[value] = None
        return {key: tuple(values) for key, values in found.items() if len(values) > 1}


class Averaged(Spec):
    """One of the models whose weights are averaged into a published one."""

    recipe: str
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict)
    weight: float = Field(gt=0, lt=1)


class Published(Spec):
    """A model that a paper reports: its parts and recipe, and the size the paper gives it."""

    vision: str
    connector: str
    llm: str
    recipe: str
    """With `average`, that of the model whose settings the average keeps."""
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Where this model departs from the recipe, as in a variant."""
    average: tuple[Averaged, ...] = ()
    """The other models that are averaged with it, and their weights; its own is what is left of 1."""
    size: str | None = None
    """Parameters as published (3.1B); None where the paper gives the model none of its own."""
    counted: Literal["rounded", "cut", "no-embeddings"] = "rounded"
    """How `size` follows from the parts: the total rounded; encoder and llm each cut to one decimal and added; or the
    total without the llm's token table and output head, rounded."""
    source: str

    @model_validator(mode="after")
    def _leaves_itself_a_weight(self) -> Self:
        total = sum(a.weight for a in self.average)
        if total > 1 or isclose(total, 1):
            raise ValueError(f"the weights of average are {total:g}, which leaves the model itself none")
        return self

    def variant(self, name: str) -> Variant:
        """The model as a variant of that name, to plan or to train; of an average, the one whose settings it keeps."""
        return Variant(
            name=name, **{k: getattr(self, k) for k in ("vision", "connector", "llm", "recipe", "overrides")}
        )

    def variants(self, name: str) -> dict[str, tuple[Variant, float]]:
        """Every model to train for it, by name, with its weight in the average."""
        own = self.variant(name)
        found = {name: (own, 1 - sum(a.weight for a in self.average))}
        for i, other in enumerate(self.average, 1):
            named = f"{name}-{i}"
            changes = {"name": named, "recipe": other.recipe, "overrides": other.overrides}
            found[named] = own.model_copy(update=changes), other.weight
        return found
