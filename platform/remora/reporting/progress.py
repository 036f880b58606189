"""A search's current state, read from its journals; no Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Required

from remora.evaluation.score import ScoreRecord
from remora.training import journal
from remora.training.events import JournalEvent


class StatusEvent(ScoreRecord, total=False):
    """An event of a variant: its stage runs, its benchmarks, its end. Of `scored`, the rest is the score."""

    event: Required[str]
    time: Required[float]
    stage: str
    run: str
    state: str
    done: int
    of: int
    """Questions."""
    text: str
    error: str
    bundle: str
    step: int
    """Steps after which it was paused."""


RECENT = 10
"""Steps over which speed and remaining time are averaged."""


@dataclass
class VariantProgress:
    """One variant's line in the table."""

    name: str
    state: str = "starting"
    stage: str = ""
    run: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    stages: dict[str, str] = field(default_factory=dict)
    """Stage run name -> waiting, training, trained or reused."""
    accuracy: dict[str, float] = field(default_factory=dict)
    """Benchmark -> its headline figure, once measured."""
    scores: dict[str, ScoreRecord] = field(default_factory=dict)
    """Benchmark -> its whole score, as from evaluation.score.as_json."""
    bundle: str = ""
    """The bundle's folder, once the variant is finished."""
    asked: str = ""
    """The benchmark being asked, and its progress."""
    validation: float | None = None
    """The stage's last loss over held-out samples, if it is validated."""
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    """Notes of its stage runs, such as a refused checkpoint."""

    @property
    def reused(self) -> int:
        """Stage runs that it did not have to train."""
        return sum(state == "reused" for state in self.stages.values())


class SearchProgress:
    """Follows a search's variants from a point in time on."""

    def __init__(self, runs: Path, search: str, variants: list[str], since: float) -> None:
        self.runs, self.search = runs, search
        self.folder = runs / "status" / search
        self.variants = variants
        self.since = since
        self._noted: dict[str, list[str]] = {}
        """Stage run -> its notes, once it is trained."""
        self._told: dict[str, tuple[tuple[int, int], list[StatusEvent]]] = {}
        """Variant -> the time and size of its status file, and its events."""

    def read(self) -> list[VariantProgress]:
        """Every variant as it is now: those that were known beforehand, then those that were asked for since."""
        known = set(self.variants)
        found = (f for f in self.folder.glob("*.jsonl") if f.stem not in known and f.stat().st_mtime >= self.since)
        self.variants += [f.stem for f in sorted(found, key=lambda f: f.stat().st_mtime)]
        return [self._variant(name) for name in self.variants]

    def _variant(self, name: str) -> VariantProgress:
        progress = VariantProgress(name)
        for event in self._status(name):
            if event["time"] >= self.since:
                _apply(progress, event)
        for run, state in progress.stages.items():
            if state == "training":
                events = self._events(f"{run}.work")
                progress.notes += self._notes(run, events)
                if progress.state in ("training", "paused", "stopped"):
                    self._steps(progress, events)
            elif state == "trained":
                if run not in self._noted:
                    self._noted[run] = self._notes(run, self._events(run))
                progress.notes += self._noted[run]
        return progress

    def _status(self, name: str) -> list[StatusEvent]:
        file = self.folder / f"{name}.jsonl"
        try:
            stat = file.stat()
        except FileNotFoundError:
            return []
        now = (stat.st_mtime_ns, stat.st_size)
        if name not in self._told or self._told[name][0] != now:
            self._told[name] = (now, journal.load(file).records)
        return self._told[name][1]

    def _events(self, folder: str) -> list[JournalEvent]:
        return list(journal.read(self.runs / "stages" / folder / journal.JOURNAL))

    def _notes(self, run: str, events: list[JournalEvent]) -> list[str]:
        """The stage run's notes since this command began; earlier commands showed earlier ones."""
        new = [e["text"] for e in events if e["event"] == "noted" and e["time"] >= self.since]
        return [f"{run}: {text}" for text in dict.fromkeys(new)]

    def _steps(self, progress: VariantProgress, events: list[JournalEvent]) -> None:
        """Fill in the step figures of the stage run being trained."""
        started = [e for e in events if e["event"] == "started"]
        steps = [e for e in events if e["event"] == "step"]
        if not started or not steps:
            return
        progress.steps = started[-1].get("steps", 0)
        progress.step = steps[-1]["step"] + 1
        progress.validation = next((e["loss"] for e in reversed(events) if e["event"] == "validation"), None)
        progress.loss = steps[-1].get("loss")
        recent = [e for e in steps[-RECENT:] if e.get("samples_per_second") and e.get("tokens_per_second")]
        if not recent:
            return
        progress.tokens_per_second = sum(e["tokens_per_second"] for e in recent) / len(recent)
        seconds = sum(e.get("samples", 0) / e["samples_per_second"] for e in recent) / len(recent)
        progress.seconds_left = seconds * (progress.steps - progress.step)


def _apply(progress: VariantProgress, event: StatusEvent) -> None:
    kind = event["event"]
    if kind == "stage":
        progress.stages[event["run"]] = event["state"]
        progress.stage, progress.run, progress.state = event["stage"], event["run"], event["state"]
        progress.loss = progress.validation = progress.seconds_left = progress.tokens_per_second = None
        progress.step = progress.steps = 0
    elif kind == "scored":
        progress.accuracy[event["benchmark"]] = event["accuracy"]
        progress.scores[event["benchmark"]] = event
    elif kind == "asked":
        progress.asked = f"{event['benchmark']} {event['done']}/{event['of']}"
    elif kind == "noted":
        progress.notes.append(event["text"])
    elif kind == "failed":
        progress.state, progress.error = "failed", event["error"]
    else:
        progress.state = kind
        progress.stage = progress.stage if kind in ("paused", "stopped") else ""
        progress.bundle = event.get("bundle", "")
