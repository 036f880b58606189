"""A model explained: where it comes from, what chose it, who promoted it, what others in the store tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from remora.notebook import table
from remora.pipeline.origin.chosen import SearchDecision, decision_of, promotions_of
from remora.pipeline.origin.model import ModelOrigin, origin_of
from remora.pipeline.origin.siblings import Sibling, siblings_of
from remora.pipeline.promotion import Promotion


@dataclass(frozen=True)
class Served:
    """A model as an endpoint tells of it."""

    endpoint: str
    model: str
    """Its registered name."""
    version: str
    fingerprint: str
    """What its answers name it by."""
    weights: str
    stages: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    remora: str = ""
    """The release that serves it."""
    note: str = ""
    """How what is served differs from the bundle that is explained."""


@dataclass(frozen=True)
class CanaryDecision:
    """What became of the model as an endpoint's candidate."""

    endpoint: str
    candidate: str
    """The version that it was, or the model that was named."""
    stable: str
    """The version that it was held against."""
    began: str
    ended: str
    """UTC; empty while it goes on."""
    decision: str
    """promoted, rolled back, …; empty while it goes on."""
    why: str
    comparisons: int
    rule: str
    figures: tuple[str, ...]
    """Of its last look."""


@dataclass(frozen=True)
class Explanation:
    """All that is known of a model."""

    asked: str
    origin: ModelOrigin
    promotions: tuple[Promotion, ...]
    decision: SearchDecision | None
    siblings: tuple[Sibling, ...]
    served: Served | None = None
    version: str | None = None
    """`remora version 3`, where it was asked for by a registered name."""
    canaries: tuple[CanaryDecision, ...] = ()

    def _repr_html_(self) -> str:
        """Its parts, stage runs, data and promotions, in a notebook."""
        model = self.origin
        parts = ((p.part, p.name, p.licence, p.parameters, ", ".join(p.trained)) for p in model.parts)
        stages = ((s.name, ", ".join(s.trained), s.steps, s.samples, s.loss, s.seconds) for s in model.stages)
        data = ((d.dataset or d.path, d.records, d.licence) for d in model.data)
        moves = ((f"{p.model}@{p.alias}", p.version, p.at, p.by) for p in self.promotions)
        return "".join(
            (
                table(f"{model.name}: {model.made}", ("part", "name", "licence", "parameters", "trained by"), parts),
                table("Stage runs", ("stage run", "trained", "steps", "samples", "loss", "seconds"), stages),
                table("Data", ("data", "records", "licence"), data),
                table("Promotions", ("alias", "version", "at", "by"), moves) if self.promotions else "",
            )
        )


def explain(
    folder: Path,
    runs: Path,
    asked: str,
    served: Served | None = None,
    version: str | None = None,
    siblings: bool = True,
) -> Explanation:
    """Explain the bundle in `folder`; with or without what `siblings` tell, each of whom costs a paired test.

    Raises:
        DataError, TornArtifact: no bundle there, or its files cannot be read.
        StoreError: a file of the run folder cannot be read.
    """
    origin = origin_of(folder, runs)
    decision = decision_of(origin, runs)
    found = siblings_of(origin, runs, decision.benchmark if decision else None) if siblings else ()
    return Explanation(asked, origin, promotions_of(origin, runs), decision, found, served, version)
