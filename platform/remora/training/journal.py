"""A stage run's journal: one JSON line per event, in order.

Figures are written here first. The journal is beside the checkpoints, does not depend on a tracker, and feeds both
MLflow and the progress display. A resumed run first takes it over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remora.errors import TrainingError
from remora.files import disk_errors, lines, write_atomic
from remora.files.lines import Lines
from remora.training.events import JournalEvent, StepEvent, ValidationFigures

JOURNAL = "journal.jsonl"
BEGUN = b'{"event": "attempt"'
"""Start of the first line of an attempt."""
VALIDATION: Final = "validation"
"""The event of a loss over held-out samples."""
FIRST: Final = "event"
"""The key that every line begins with."""
NEEDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "attempt": {"attempt": int},
    "step": {"step": int},
    "rolled_back": {"step": int, "to": int},
    VALIDATION: {"step": int, "samples_seen": int, "share": (int, float), "loss": (int, float), "of": str},
    "stage": {"run": str, "stage": str, "state": str},
    "asked": {"benchmark": str, "done": int, "of": int},
    "scored": {"benchmark": str, "accuracy": (int, float)},
    "failed": {"error": str},
    "noted": {"text": str},
}
"""Fields of each event that readers rely on."""


def append(path: Path, event: str, **fields: object) -> None:
    """Write one event. A validation is on disk when this returns: whether a stage goes on is decided by it."""
    lines.append(path, [{FIRST: event, "time": time.time(), **fields}], sync=event == VALIDATION)


def whole(event: Mapping[str, object]) -> bool:
    """Whether an event has all fields that its readers need."""
    kind = event.get(FIRST)
    if not isinstance(kind, str) or not _number(event.get("time")):
        return False
    if any(type(event.get(name, 0)) is not int for name in ("step", "attempt")):
        return False
    return all(isinstance(event.get(name), kinds) for name, kinds in NEEDS.get(kind, {}).items())


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Attempts:
    """Decides, event by event, which ones count: not those of an attempt after another has taken over."""

    def __init__(self) -> None:
        self._newest = 0

    def count(self, event: Mapping[str, object]) -> bool:
        attempt = event.get("attempt")
        if isinstance(attempt, int):
            self._newest = max(self._newest, attempt)
        return attempt in (None, self._newest)


def load(path: Path) -> Lines:
    """All events of a journal, and the number of torn lines; without events of attempts that lost it.

    Raises:
        StoreError: it cannot be read.
    """
    found, attempts = lines.read(path, FIRST, whole), Attempts()
    found.records = [event for event in found.records if attempts.count(event)]
    return found


def read(path: Path) -> Iterator[JournalEvent]:
    """The events of `load`. A last line that is still being written is left for the next call."""
    yield from load(path).records


def steps_of(path: Path) -> list[StepEvent]:
    """The events of steps only."""
    return [e for e in read(path) if e[FIRST] == "step"]


def taken(path: Path) -> tuple[int, int]:
    """(steps that were ever taken, those among them that were taken again after an interruption)."""
    steps = again = 0
    for e in read(path):
        steps += e[FIRST] == "step"
        if e[FIRST] == "started" and isinstance(e.get("again"), int):
            again += e["again"]
    return steps + again, again


@dataclass(frozen=True)
class Validated:
    """What a validation came to."""

    step: int
    """The step after which it was made, counted from 0."""
    samples: int
    """Samples that were trained on by then."""
    share: float
    """Of all samples that the stage trains on."""
    loss: float
    """Nats a supervised token of the held-out samples."""
    score: float | None
    """The benchmark's headline figure, where one was asked."""
    of: str
    """Digest of what was held out and asked: figures of one digest are of the same samples and questions."""
    tokens: int = 0
    """Supervised tokens that the loss is the mean over."""

    @classmethod
    def of_event(cls, e: ValidationFigures) -> Validated:
        tokens = e.get("tokens", 0)
        return cls(e["step"], e["samples_seen"], e["share"], e["loss"], e.get("score"), e["of"], tokens)


def validations_of(path: Path) -> list[Validated]:
    """The validations of a stage run, in order, also while it trains."""
    return [Validated.of_event(e) for e in read(path) if e[FIRST] == VALIDATION]


def notes_of(path: Path) -> list[str]:
    """The run's notes for the user, each once, in order."""
    return list(dict.fromkeys(e["text"] for e in read(path) if e[FIRST] == "noted"))


def attempt(path: Path) -> int:
    """The newest attempt's number, or 0. Used at each checkpoint, so other lines are not parsed."""
    data = path.read_bytes() if path.exists() else b""
    begun = b"\n".join(line for line in data.split(b"\n") if BEGUN in line)
    return max((e["attempt"] for e in lines.parse(begun + b"\n", FIRST, whole).records if "attempt" in e), default=0)


def check_ours(path: Path, number: int) -> None:
    """Call before writing anything but a line of the journal.

    Raises:
        TrainingError: another attempt has begun, because this process was thought dead.
    """
    if attempt(path) > number or not path.exists():
        raise TrainingError(
            f"{path.parent}: another attempt at this stage has taken over; this one ends, nothing is lost"
        )


def take_over(path: Path, step: int) -> int:
    """Begin an attempt that continues at `step`; returns its number.

    Events from that step on are dropped, because the steps will be repeated. The previous attempt loses the journal at
    the same time: a rank 0 that was cut off, or suspended and resumed, may still write, but its lines are ignored.
    Earlier steps that are missing in the journal are listed in a note: only their figures are lost.
    """
    found = load(path)
    number = max([attempt(path), *(e.get("attempt", 0) for e in found.records)]) + 1
    kept = [e for e in found.records if e.get("step", -1) < step]
    begun = {FIRST: "attempt", "time": time.time(), "attempt": number}
    with disk_errors(path):
        write_atomic(path, "".join(json.dumps(e) + "\n" for e in [*kept, begun]))
    if text := _lost(path, found, kept, step):
        append(path, "noted", attempt=number, text=text)
    return number


def _lost(path: Path, found: Lines, kept: list[JournalEvent], step: int) -> str:
    """One line about what is missing in the journal before `step`; empty if it is complete."""
    have = {e["step"] for e in kept if e[FIRST] in ("step", "left_out", "rolled_back")}
    have.update(s for e in kept if e[FIRST] == "rolled_back" for s in range(e["to"], e["step"]))
    missing = [s for s in range(step) if s not in have]
    told = [lines.said(found, path)] if lines.said(found, path) else []
    if missing:
        steps = f"step {missing[0]}" if len(missing) == 1 else f"{len(missing)} steps, the first is {missing[0]}"
        told.append(f"figures of {steps}, are not in the journal; the checkpoint holds what they trained")
    return "; ".join(told)
