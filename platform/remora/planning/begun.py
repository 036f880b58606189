"""What a search of that name has done already, so that a plan is of what is left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from remora.files import is_published
from remora.pipeline.search import space_file
from remora.pipeline.search.board import RUNGS, Decided, Reached, Rungs
from remora.pipeline.search.driver import folder_of
from remora.pipeline.search.ledger import LEDGER, Ledger
from remora.pipeline.search.verdict import rule_of
from remora.spec import Space, Variant


@dataclass(frozen=True)
class Begun:
    """A search that was begun."""

    rungs: tuple[Reached | Decided, ...]
    """What its variants reached and what the space's rule made of it; nothing that another rule decided."""
    variants: tuple[Variant, ...]
    """Those that it took up, if it was over the same axes."""
    count: int
    """How many it took up."""
    trained: int
    """Of them, those whose last stage run is published."""
    paused: int
    stopped: int
    steps: int
    """Optimiser steps that were taken."""
    hours: float
    """By the clock."""
    gpu_hours: float


def begun(runs: Path, space: Space) -> Begun | None:
    """None if the run folder has no search of that name.

    Raises:
        RemoraError: a file of it cannot be read.
    """
    folder = folder_of(runs, space.name)
    found = space_file.read(folder)
    if found is None:
        return None
    rule, ledger = rule_of(space.rule), Ledger(folder / LEDGER)
    board = Rungs.read(folder / RUNGS, rule.figure, rule.words)
    lasts = [lineage[-1] for lineage in found.lineages.values() if lineage]
    left = [run for run in lasts if not is_published(runs / "stages" / run)]
    decided = [said.decision for run in left if (said := board.state(run))]
    return Begun(
        (*board.arrivals, *board.decided) if rule.rungs else (),
        tuple(found.variants.values()) if found.space.domain() == space.domain() else (),
        len(lasts),
        len(lasts) - len(left),
        decided.count("pause"),
        decided.count("stop"),
        ledger.steps,
        ledger.hours,
        ledger.gpu_hours(space.cluster),
    )
