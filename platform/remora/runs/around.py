"""Seconds around training, as status journals have them: workers that start, benchmarks that are asked.

Status journals are `<runs>/status/<search>/<variant>.jsonl` (`pipeline.variant`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from remora.errors import StoreError
from remora.training import journal

MOST = 12
"""Status journals that are looked at, the newest first."""


@dataclass(frozen=True)
class Around:
    """Median seconds of starting workers and of benchmarks; what was never measured is missing."""

    start: float | None = None
    """From where Ray is up, or a local command is ready, to the first stage run of a group of workers."""
    benchmarks: dict[str, float] = field(default_factory=dict)
    """By the benchmark's name, of one model."""

    def asking(self, benchmarks: Sequence[str]) -> float:
        """Seconds of those that were measured."""
        return sum(self.benchmarks.get(name, 0.0) for name in benchmarks)

    def unknown(self, benchmarks: Sequence[str]) -> list[str]:
        return [name for name in dict.fromkeys(benchmarks) if name not in self.benchmarks]


def around(runs: Path) -> Around:
    """What the newest commands of a run folder took."""
    files = sorted((runs / "status").glob("*/*.jsonl"), key=lambda f: -f.stat().st_mtime)[:MOST]
    starts: dict[Path, list[float]] = {}
    asked: dict[str, list[float]] = {}
    for file in files:
        try:
            events = list(journal.read(file))
        except StoreError:
            continue
        starts.setdefault(file.parent, []).extend(_starts(events))
        for benchmark, seconds in _asked(events):
            asked.setdefault(benchmark, []).append(seconds)
    first = [min(found) for found in starts.values() if found]  # the others of a search wait for their turn
    return Around(median(first) if first else None, {name: median(took) for name, took in asked.items()})


def _starts(events: Sequence[Mapping[str, object]]) -> Iterator[float]:
    """Seconds between `queued` and the stage run that trains next."""
    queued: float | None = None
    for e in events:
        if e["event"] == "queued":
            queued = _at(e)
        elif e["event"] == "stage" and queued is not None:
            if e["state"] == "training":
                yield _at(e) - queued
            queued = None


def _asked(events: Sequence[Mapping[str, object]]) -> Iterator[tuple[str, float]]:
    """(benchmark, seconds) of those that were asked there, not only read."""
    began, worked = 0.0, False
    for e in events:
        if e["event"] == "evaluating":
            began, worked = _at(e), False
        elif e["event"] == "asked":
            worked = worked or e["done"] != 0
        elif e["event"] == "scored":
            if worked and began:
                yield str(e["benchmark"]), _at(e) - began
            began, worked = _at(e), False


def _at(event: Mapping[str, object]) -> float:
    at = event["time"]
    return float(at) if isinstance(at, int | float) else 0.0
