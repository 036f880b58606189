"""The stage graph: which stage runs variants share, and what sharing and stopping saved."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from remora.pipeline.search.spending import Spending, spending
from remora.reporting.search_report.record import SearchRecord
from remora.reporting.search_report.training import Trained


@dataclass(frozen=True)
class Node:
    """A stage run."""

    run: Trained
    depth: int
    """Its column: stages of one name stand in one, behind all that come before them."""
    height: float
    """Its place across; the leaves stand at 0, 1, 2, …"""
    variants: tuple[str, ...]
    state: str
    """trained (by this search) | reused (it was there) | paused | failed | not begun"""


@dataclass(frozen=True)
class StageGraph:
    """All stage runs of the search."""

    nodes: tuple[Node, ...]
    leaves: int
    planned_runs: int
    """Of all variants, each on its own."""
    spending: Spending


def graph(record: SearchRecord) -> StageGraph | None:
    """None where no variant's stage runs are known."""
    users: dict[str, list[str]] = {}
    for v in record.variants:
        for run in v.lineage:
            users.setdefault(run, []).append(v.name)
    if not users:
        return None
    depths = _depths(record)
    heights, leaves = _heights(record)
    how: dict[str, str] = {}
    for e in record.entries:
        if e.kind == "train":
            how[e.run] = e.how if how.get(e.run) != "trained" else "trained"
    nodes = [
        Node(run, depths[name], heights[name], tuple(users[name]), _state(run, how.get(name)))
        for name, run in record.stages.items()
    ]
    lineages = {v.name: v.lineage for v in record.variants}
    found = spending(record.entries, lineages, _steps(record), lambda run: record.stages[run].published)
    return StageGraph(tuple(nodes), leaves, sum(map(len, lineages.values())), found)


def _depths(record: SearchRecord) -> dict[str, int]:
    """By stage name; by the stages before each where recipes have them in different orders."""
    depths = {run: i for v in record.variants for i, run in enumerate(v.lineage)}
    columns: dict[str, int] = {}
    for v in record.variants:
        for depth, run in enumerate(v.lineage):
            stage = record.stages[run].stage
            columns[stage] = max(depth, columns.get(stage, 0))
    found = {run: columns[record.stages[run].stage] for run in depths}
    ordered = all(found[a] < found[b] for v in record.variants for a, b in pairwise(v.lineage))
    return found if ordered else depths


def _steps(record: SearchRecord) -> dict[str, int]:
    """Steps of each stage run to its end; where no file says it, those of another of its stage."""
    known = {run.stage: run.steps for run in record.stages.values() if run.steps}
    told = record.steps
    return {name: told.get(name) or run.steps or known.get(run.stage, 0) for name, run in record.stages.items()}


def _state(run: Trained, how: str | None) -> str:
    if run.published:
        return "trained" if how == "trained" else "reused"
    if how == "failed":
        return "failed"
    return "paused" if run.taken else "not begun"


def _heights(record: SearchRecord) -> tuple[dict[str, float], int]:
    """Leaves at 0, 1, 2, … with siblings beside each other; a parent in the middle of its children."""
    children: dict[str | None, list[str]] = {}
    for name, run in record.stages.items():
        children.setdefault(run.parent if run.parent in record.stages else None, []).append(name)
    found: dict[str, float] = {}
    leaves = 0

    def place(name: str) -> float:
        nonlocal leaves
        below = [place(child) for child in children.get(name, [])]
        if below:
            found[name] = (below[0] + below[-1]) / 2
        else:
            found[name], leaves = float(leaves), leaves + 1
        return found[name]

    for root in children.get(None, []):
        place(root)
    return found, leaves
