"""How a stage run was trained: its loss by samples, its validations, its price. From its journal and record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from remora.files import is_published
from remora.training import journal, totals
from remora.training.events import JournalEvent, StepFigures, ValidationEvent
from remora.training.journal import JOURNAL, VALIDATION

WINDOWS = 40
"""Means that a curve of training loss is drawn by, at most."""


@dataclass(frozen=True)
class CurvePoint:
    """A loss after so many samples of the stage."""

    samples: int
    loss: float
    """Nats a supervised token."""


@dataclass(frozen=True)
class Trained:
    """One stage run, as far as it came."""

    name: str
    stage: str
    parent: str | None
    published: bool
    steps: int
    """Of the whole stage; 0 if it never began."""
    taken: int
    """Steps that count: those that were rolled back or taken again count once."""
    samples: int
    seconds: float
    """That its attempts trained, by the clock."""
    parameters: int | None
    """Of all parts that are present."""
    curve: tuple[CurvePoint, ...]
    """Training loss, smoothed (`smoothed`)."""
    validations: tuple[CurvePoint, ...]

    @property
    def window(self) -> int:
        """Steps that a point of the curve is the mean of."""
        return -(-self.taken // WINDOWS)


def read_trained(runs: Path, name: str, parent: str | None) -> Trained:
    """A stage run wherever it is; one that never began has no steps.

    Raises:
        StoreError: its journal cannot be read.
    """
    done = runs / "stages" / name
    published = is_published(done)
    folder = done if published else done.with_name(f"{name}.work")
    events = journal.load(folder / JOURNAL).records
    steps = totals.counted(events)
    started = [e for e in events if e["event"] == "started"]
    table = next((e["table"] for e in reversed(started) if e.get("table")), None)
    return Trained(
        name,
        started[-1].get("stage", _stage(name)) if started else _stage(name),
        parent or _parent(folder),
        published,
        started[-1].get("steps", 0) if started else 0,
        len(steps),
        sum(s.get("samples", 0) for s in steps),
        totals.seconds(events),
        sum(row["parameters"] for row in table) if table else None,
        smoothed(steps),
        tuple(CurvePoint(e["samples_seen"], e["loss"]) for e in _validations(events)),
    )


def _stage(name: str) -> str:
    return name.rpartition("-")[0]


def _parent(folder: Path) -> str | None:
    try:
        found = json.loads((folder / "record.json").read_text()).get("parent")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def _validations(events: Iterable[JournalEvent]) -> list[ValidationEvent]:
    found = {e["step"]: e for e in events if e["event"] == VALIDATION}
    return [found[step] for step in sorted(found)]


def smoothed(steps: Sequence[StepFigures], windows: int = WINDOWS) -> tuple[CurvePoint, ...]:
    """Means of the loss over windows of as many steps each, weighted by supervised tokens; at the samples they end at.

    A step without a finite loss counts for its samples only.
    """
    size = max(1, -(-len(steps) // windows))
    found, samples = [], 0
    for begin in range(0, len(steps), size):
        window = steps[begin : begin + size]
        samples += sum(s.get("samples", 0) for s in window)
        weighed = [(s["loss"], s.get("tokens") or 1.0) for s in window if _finite(s.get("loss"))]
        if weighed:
            total = sum(tokens for _, tokens in weighed)
            found.append(CurvePoint(samples, sum(loss * tokens for loss, tokens in weighed) / total))
    return tuple(found)


def _finite(loss: object) -> bool:
    return isinstance(loss, int | float) and abs(loss) < float("inf")
