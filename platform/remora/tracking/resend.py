"""What was written to MLflow, kept in the run folder, so that a record that MLflow lost is made anew.

A server that was started again with an empty database knows no run. Calls that name one would be refused for ever; here
the run is found by its key or made, and all that was written to it is written again. Every call may be repeated without
harm (see `server.py`). Steps are not kept twice: they stand in the stage runs' journals.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remora.files import lines
from remora.tracking.backlog import FIRST, locked, whole
from remora.tracking.figures import Step, step_of
from remora.training import journal

SENT = "tracking-sent.jsonl"
CHUNK = 500
"""Steps a call, which bounds a line of the backlog."""


class Sent:
    """The calls of a run folder that MLflow took, but for steps."""

    def __init__(self, runs: Path) -> None:
        self.runs, self.path = runs, runs / SENT
        self._edits = runs / ".tracking-sent.lock"

    def keep(self, record: dict[str, Any], run: str) -> None:
        """A call that was made, for the run of that id."""
        if record[FIRST] != "steps":
            with locked(self._edits):
                lines.append(self.path, [record | {"real": run}])

    def of(self, run: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """How a run was started, and the calls that followed; also under the ids that it had before."""
        found = lines.read(self.path, FIRST, whole).records
        starts = [r for r in found if r[FIRST] == "start"]
        key = next((r["key"] for r in starts if run in (r["run"], r.get("real"))), None)
        if key is None:
            return None, []
        starts = [r for r in starts if r["key"] == key]
        ids = {r["real"] for r in starts} | {r["run"] for r in starts}
        return starts[-1], [r for r in found if r[FIRST] != "start" and ids & {r["run"], r.get("real")}]

    def steps(self, start: dict[str, Any]) -> Iterator[list[Step]]:
        """The steps of a stage run, from its journal."""
        if start["tags"].get("remora.kind") != "stage":
            return
        for folder in (start["name"], f"{start['name']}.work"):
            path = self.runs / "stages" / folder / journal.JOURNAL
            if path.is_file():
                steps = [step for event in journal.read(path) if (step := step_of(event))]
                yield from (steps[i : i + CHUNK] for i in range(0, len(steps), CHUNK))
                return
