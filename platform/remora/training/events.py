"""Shapes of a journal's events, for those who read them.

Any line may be lost, and an older version may have written fewer fields. `journal.whole` makes sure of those that
readers rely on (`journal.NEEDS`).
"""

from __future__ import annotations

from typing import Literal, NotRequired, Required, TypedDict

from remora.data.skipped import EntryCounts
from remora.training.environment import EnvironmentRecord


class StepFigures(TypedDict, total=False):
    """What an optimiser step came to, over all ranks."""

    step: Required[int]
    """Counted from 0."""
    loss: float
    """Nats a supervised token."""
    grad_norm: float
    lr: dict[str, float]
    """Part -> rate."""
    samples: int
    tokens: float
    """Supervised ones."""
    dropped: int
    real_tokens: float
    """Share of the computed tokens that are no padding."""
    wait: float
    wait_max: float
    wait_share: float
    samples_per_second: float
    tokens_per_second: float
    flops: float | None
    """Operations, as training/flops.py counts them; None where it cannot."""
    mfu: float | None
    memory: float
    """GiB."""
    eta: float
    """Seconds."""
    loss_scale: float
    energy: dict[str, float]
    """Joules since the attempt started: gpu_joules, cpu_joules, of the counters that every rank can read."""
    system: dict[str, float]
    """What was in use on rank 0's machine, by MLflow's names; every ten seconds."""


class StepEvent(StepFigures, total=False):
    """An optimiser step."""

    event: Required[Literal["step"]]
    time: Required[float]
    """Seconds since 1970."""
    attempt: int


class ValidationFigures(TypedDict):
    """What a validation measured."""

    step: int
    """The step after which it was made, counted from 0."""
    samples_seen: int
    share: float
    loss: float
    score: NotRequired[float]
    tokens: int
    samples: int
    seconds: float
    ranks: int
    of: str
    """Digest of what was held out."""


class ValidationEvent(ValidationFigures):
    """A loss over held-out samples."""

    event: Literal["validation"]
    time: float
    attempt: NotRequired[int]


class PartRow(TypedDict):
    """A part as a stage trains it: `model.tuning.TuningRow`."""

    part: str
    mode: str
    parameters: int
    trained: int
    lr: float | None


OtherKind = Literal[
    "attempt",
    "started",
    "rolled_back",
    "left_out",
    "dropped",
    "noted",
    "checkpoint",
    "trained",
    "paused",
    "short",
    "rehearsed",
]


class OtherEvent(TypedDict, total=False):
    """Any other event of a stage run."""

    event: Required[OtherKind]
    time: Required[float]
    attempt: int
    step: int
    to: int
    """The step that a roll back went back to."""
    text: str
    message: str
    stage: str
    steps: int
    at: int
    """The step that an attempt starts with, or that a checkpoint has."""
    again: int
    """Steps that an attempt takes again."""
    workers: int
    table: list[PartRow]
    data: list[EntryCounts]
    """What the indexes skip, by entry of the mixture."""
    environment: EnvironmentRecord
    """What an attempt runs on, in its "started"."""
    counters: list[str]
    """The counters of energy that its first rank can read: gpu, cpu."""
    entry: int
    sample: str
    kind: str


JournalEvent = StepEvent | ValidationEvent | OtherEvent
