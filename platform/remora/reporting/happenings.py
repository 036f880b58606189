"""What happens in a search or a training, as lines: each thing once, in the order in which it was written down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from remora.files.lines import Tail
from remora.pipeline.search.board import RUNGS
from remora.pipeline.search.driver import folder_of
from remora.reporting.progress import StatusEvent
from remora.reporting.results import score_line
from remora.training import journal

SHOWN = 3
"""Variants that one line names."""


class Happened(StatusEvent, total=False):
    """An event of a variant, or of the board of rungs."""

    variant: str
    share: float
    """Of the stage, at the rung."""
    figure: str
    value: float
    decision: str
    place: int
    among: int


class Happenings:
    """Follows a search's variants, and its rungs, from a point in time on."""

    def __init__(self, runs: Path, search: str, since: float) -> None:
        self._status, self._since = runs / "status" / search, since
        self._tails: dict[str, Tail] = {}
        self._rungs = Tail(
            folder_of(runs, search) / RUNGS, journal.FIRST, lambda line: "variant" in line and "share" in line
        )
        self._values: dict[tuple[object, object], str] = {}
        """(stage run, share) -> what was measured there."""

    def new(self, variants: Sequence[str]) -> Iterator[str]:
        """A line for each thing that happened to these variants since the last call."""
        found: list[tuple[float, str, Happened]] = [(_time(e), str(e["variant"]), e) for e in self._rungs.new()]
        for name in variants:
            if name not in self._tails:
                self._tails[name] = Tail(self._status / f"{name}.jsonl", journal.FIRST, journal.whole)
            found += [(_time(e), name, e) for e in self._tails[name].new()]
        reused: dict[str, list[str]] = {}
        for time, name, event in sorted(found, key=lambda f: f[0]):
            if time < self._since:
                continue
            if event["event"] == "stage" and event["state"] == "reused":
                reused.setdefault(str(event["run"]), []).append(name)
            elif said := self._line(event):
                yield f"{name}: {said}"
        for run, names in reused.items():
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield f"{', '.join(names[:SHOWN])}{more}: {run} reused"

    def _line(self, e: Happened) -> str:
        kind = e["event"]
        if kind == "stage" and e["state"] in ("training", "trained"):
            return f"{e['stage']} {'begins' if e['state'] == 'training' else 'trained'} ({e['run']})"
        if kind == "reached":
            value, share = f"{e['figure']} {e['value']:.4f}", float(str(e["share"]))
            self._values[e["run"], e["share"]] = value
            return f"end of {e['stage']}: {value}" if share == 1.0 else ""
        if kind == "decided":
            value = self._values.get((e["run"], e["share"]), "")
            made = {"pause": "pauses", "stop": "stops"}.get(str(e["decision"]), "goes on")
            at = f"{float(str(e['share'])):.0%} of {e['stage']}"
            return f"{made} at {at}: {value}{', ' * bool(value)}place {e['place']} of {e['among']}"
        if kind == "paused" and "step" in e:
            return f"paused after {e['step']} steps"
        if kind == "scored":
            return score_line(e) if "ci" in e else f"{e['benchmark']} {e['accuracy']:.3f}"
        if kind == "failed":
            return f"failed: {e['error']}"
        return {"evaluating": "measuring", "finished": "finished"}.get(str(kind), "")


def _time(event: Happened) -> float:
    time = event.get("time")
    return float(time) if isinstance(time, int | float) else 0.0
