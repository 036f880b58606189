"""A search read from the run folder: its variants, their stage runs, what was measured. No Ray, no MLflow, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remora import catalog
from remora.catalog.compatibility import check_composition
from remora.errors import RemoraError, StoreError, nearest
from remora.evaluation.score import ScoreRecord
from remora.files import disk_errors
from remora.pipeline.search import space_file
from remora.pipeline.search.board import RUNGS, Reached, Rungs
from remora.pipeline.search.driver import folder_of
from remora.pipeline.search.ledger import LEDGER, Entry, Ledger
from remora.pipeline.search.search import result_file
from remora.reporting.progress import SearchProgress, VariantProgress
from remora.reporting.search_report.training import Trained, read_trained
from remora.runs.rungs import figure_name
from remora.spec import PARTS, Space, Variant
from remora.spec.axes import figure

STATES = ("finished", "trained", "paused", "stopped", "failed", "unfinished")
"""What became of a variant; measured, or how far it came."""


@dataclass(frozen=True)
class SearchedVariant:
    """One variant of the search."""

    name: str
    state: str
    """One of STATES."""
    choice: Mapping[str, str]
    """Axis -> value as it is printed: recipe, parts, and what the space adds; {} where no file says it."""
    lineage: tuple[str, ...]
    """Its stage runs' names, the first stage first, as far as they are known."""
    scores: Mapping[str, ScoreRecord]
    """Benchmark -> `evaluation.score.as_json`."""
    reached: Reached | None
    """The furthest rung."""
    parameters: int | None
    """Of all its parts."""
    picture_tokens: int | None
    """Embeddings that a picture becomes."""
    steps: int
    """Optimiser steps of its whole lineage, as far as they were taken: its price without sharing."""
    seconds: float
    """Of the same steps, by the clock."""
    answer_seconds: float | None = None
    """Of an answer, and the memory in GiB, as `pipeline.answer_speed` measured them, if an objective asked for it."""
    answering_memory: float | None = None
    error: str = ""


@dataclass(frozen=True)
class SearchRecord:
    """All that the run folder says of a search."""

    name: str
    runs: Path
    variants: tuple[SearchedVariant, ...]
    stages: Mapping[str, Trained]
    """Stage runs by name, parents before children."""
    entries: tuple[Entry, ...]
    """Its ledger."""
    board: Rungs
    space: Space | None
    result: Mapping[str, Any]
    """`Result.as_json`; {} while the search has none."""
    steps: Mapping[str, int]
    """Stage run's name -> its steps to its end, as far as the search wrote them down."""

    @property
    def benchmark(self) -> str | None:
        """What the champion is chosen by; the first benchmark where no file says it."""
        if self.space:
            return figure_name(self.space.champion.benchmark)
        return next((b for v in self.variants for b in v.scores), None)

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The deciding one first."""
        found = dict.fromkeys(b for v in self.variants for b in v.scores)
        first = [b for b in (self.benchmark,) if b in found]
        return tuple(dict.fromkeys([*(b for b in first if b), *found]))

    @property
    def measured(self) -> tuple[SearchedVariant, ...]:
        """Variants with a score on the deciding benchmark."""
        return tuple(v for v in self.variants if self.benchmark in v.scores)

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The axes on which variants differ, each with its values in the space's order, or as they come."""
        names = dict.fromkeys(axis for v in self.variants for axis in v.choice)
        found = {axis: dict.fromkeys(v.choice[axis] for v in self.variants if axis in v.choice) for axis in names}
        return {axis: _ordered(list(values)) for axis, values in found.items() if len(values) > 1}


def _ordered(values: list[str]) -> tuple[str, ...]:
    """Numbers by size, words as they come."""
    try:
        return tuple(sorted(values, key=float))
    except ValueError:
        return tuple(values)


def page_of(runs: Path, search: str) -> Path:
    """The report's page, in a folder that it has for itself and its figures."""
    return folder_of(runs, search) / "report" / "report.html"


def read_search(runs: Path, name: str) -> SearchRecord:
    """Raises:
    StoreError: no such search, or a file of it cannot be read.
    """
    folder, file = folder_of(runs, name), result_file(runs, name)
    if not (folder / LEDGER).exists() and not file.exists():
        searches = _names(runs)
        there = f"there are: {', '.join(searches)}" if searches else f"{runs} has none; next: remora search SPACE.yaml"
        raise StoreError(f"no search {name!r}{nearest(name, searches)}; {there}")
    found = space_file.read(folder)
    board, entries = Rungs.read(folder / RUNGS), Ledger.entries(folder / LEDGER)
    result = json_of(file)
    now = {p.name: p for p in SearchProgress(runs, name, [], 0.0).read()}
    specs, lineages = (found.variants, found.lineages) if found else ({}, {})
    names = list(specs) or [*(v["name"] for v in result.get("variants", ())), *(e.variant for e in entries)]
    known = list(dict.fromkeys(names))
    told = {v["name"]: v for v in (*result.get("variants", ()), *result.get("others", ()))}
    by = {v["name"]: v["figures"] for v in (result.get("pareto") or {}).get("variants", ())}
    lineages = {n: lineages.get(n) or tuple(told.get(n, {}).get("stages", ())) for n in known}
    stages = _stages(runs, lineages)
    variants = tuple(
        _variant(n, specs.get(n), lineages[n], told.get(n, {}), now.get(n), board, entries, stages, by.get(n, {}))
        for n in known
    )
    space, steps = (found.space, found.steps) if found else (None, {})
    return SearchRecord(name, runs, variants, stages, tuple(entries), board, space, result, steps)


def _names(runs: Path) -> list[str]:
    found = [p.parent.name for p in (runs / "searches").glob(f"*/{LEDGER}")]
    return sorted({*found, *(p.stem for p in (runs / "searches").glob("*.json"))})


def json_of(path: Path) -> Mapping[str, Any]:
    try:
        with disk_errors(path):
            found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        raise StoreError(f"{path} is not a search's result; run the search again, which writes it anew") from None
    return found if isinstance(found, dict) else {}


def _stages(runs: Path, lineages: Mapping[str, tuple[str, ...]]) -> dict[str, Trained]:
    parents: dict[str, str | None] = {}
    for lineage in lineages.values():
        for i, run in enumerate(lineage):
            parents.setdefault(run, lineage[i - 1] if i else None)
    return {run: read_trained(runs, run, parent) for run, parent in parents.items()}


def _variant(
    name: str,
    spec: Variant | None,
    lineage: tuple[str, ...],
    told: Mapping[str, Any],
    now: VariantProgress | None,
    board: Rungs,
    entries: list[Entry],
    stages: Mapping[str, Trained],
    figures: Mapping[str, float],
) -> SearchedVariant:
    scores = {s["benchmark"]: s for s in told.get("benchmarks", {}).values()} or (dict(now.scores) if now else {})
    last = stages[lineage[-1]] if lineage else None
    known = [stages[run] for run in lineage]
    parameters = last.parameters if last and last.parameters else _catalogued(spec)
    return SearchedVariant(
        name,
        _state(name, lineage, bool(scores), bool(last and last.published), board, entries),
        _choice(spec),
        lineage,
        scores,
        board.last(lineage[-1]) if lineage else None,
        parameters,
        _picture_tokens(spec),
        sum(s.taken for s in known),
        sum(s.seconds for s in known),
        answer_seconds=1 / speed if (speed := figures.get("answers_per_second")) else None,
        answering_memory=figures.get("answering_memory"),
        error=(now.error or "") if now and now.state == "failed" else "",
    )


def _state(
    name: str, lineage: tuple[str, ...], scored: bool, published: bool, board: Rungs, entries: list[Entry]
) -> str:
    if scored:
        return "finished"
    ours = [e for e in entries if e.run in lineage or e.variant == name]
    newest = {e.run: e for e in ours}
    if any(e.how == "failed" for e in newest.values()):
        return "failed"
    decided = board.state(lineage[-1]) if lineage else None
    if decided and decided.decision in ("pause", "stop"):
        return "paused" if decided.decision == "pause" else "stopped"
    return "trained" if published else "unfinished"


def _choice(spec: Variant | None) -> dict[str, str]:
    if spec is None:
        return {}
    fixed = {k: getattr(spec, k) for k in ("recipe", *PARTS)}
    said = {k: figure(v) if isinstance(v, int | float) else str(v) for k, v in (fixed | spec.choice).items()}
    return said | {"recipe": figure_name(spec.recipe)}


def _catalogued(spec: Variant | None) -> int | None:
    """Without the connector's, which the catalog does not count."""
    try:
        return catalog.vision(spec.vision).parameters + catalog.llm(spec.llm).parameters if spec else None
    except RemoraError:  # a catalog of one's own that is not here
        return None


def _picture_tokens(spec: Variant | None) -> int | None:
    if spec is None:
        return None
    try:
        return check_composition(catalog.vision(spec.vision), catalog.connector(spec.connector), catalog.llm(spec.llm))
    except RemoraError:
        return None
