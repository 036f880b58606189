"""The shape of a search's result file, `searches/<search>.json`."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from remora.evaluation.choice import ChoiceRecord
from remora.evaluation.score import ScoreRecord
from remora.pipeline.objectives import ParetoRecord
from remora.pipeline.search.spending import SpentSteps


class VariantRecord(TypedDict):
    """A variant that was trained to its end and measured."""

    name: str
    stages: dict[str, str]
    """Stage run -> trained or reused."""
    benchmarks: dict[str, ScoreRecord]


class StoppedAt(TypedDict):
    """Where a variant stands that was not trained to its end."""

    stage: str
    share: float
    figure: str
    value: float
    place: tuple[int, int] | None
    """(place, of how many) among all that came there."""


class OtherVariant(TypedDict):
    """A variant that was stopped or paused at a rung."""

    name: str
    state: str
    stages: dict[str, str]
    at: NotRequired[StoppedAt | None]


class ResultRecord(TypedDict):
    """What a search found."""

    search: str
    champion: str
    choice: ChoiceRecord
    bundle: str
    register_as: str
    version: str | None
    gate: list[str]
    """The figures by which the alias came to the champion."""
    refused: str
    """Why it did not, if it did not."""
    pareto: ParetoRecord | None
    stage_runs: dict[str, int]
    """planned, trained and reused."""
    steps: SpentSteps
    stopped: str
    seconds: float
    ended: float
    """Seconds since 1970."""
    variants: list[VariantRecord]
    others: list[OtherVariant]
