"""What a search spent, against the optimum of its graph: each stage run that was missing, once and to its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from remora.files import is_published
from remora.pipeline.search import space_file
from remora.pipeline.search.ledger import LEDGER, Entry, Ledger


class SpentSteps(TypedDict):
    """`Spending` as JSON."""

    taken: int
    again: int
    optimum: int
    there: int
    alone: int
    unspent: int
    dropped: NotRequired[int]


@dataclass(frozen=True)
class Spending:
    """In optimiser steps."""

    taken: int
    """By all commands that worked at the search."""
    again: int
    """Those among them that were taken again after a worker or a command had died."""
    optimum: int
    """Of the stage runs that it had to train, each once and to its end."""
    there: int
    """Of those that others had trained."""
    alone: int
    """Of all variants, each with stage runs of its own."""
    unspent: int
    """What the optimum has more than was trained: of variants that were stopped, failed, or are still to come."""
    dropped: int = 0
    """Steps that were taken of stage runs that the space, since it was changed, has no more."""

    @property
    def ratio(self) -> float:
        """The steps that were taken, to those that what was trained needs."""
        needed = self.optimum - self.unspent
        return (self.taken - self.dropped) / needed if needed else 1.0

    @property
    def shared(self) -> int:
        """What sharing saved: stage runs of several variants, and those that were there."""
        return self.alone - self.optimum

    def as_json(self) -> SpentSteps:
        return SpentSteps(
            taken=self.taken,
            again=self.again,
            optimum=self.optimum,
            there=self.there,
            alone=self.alone,
            unspent=self.unspent,
            dropped=self.dropped,
        )


def spending(
    entries: Sequence[Entry],
    lineages: Mapping[str, Sequence[str]],
    steps: Mapping[str, int],
    published: Callable[[str], bool],
) -> Spending:
    """From a search's ledger.

    Args:
        lineages: Variant -> its stage runs' names.
        steps: Stage run's name -> its whole length.
        published: Whether a stage run is in the store.
    """
    union = dict.fromkeys(run for lineage in lineages.values() for run in lineage)
    trained = [e for e in entries if e.kind == "train" and e.how != "reused"]
    begun = {e.run: (e.at or 0) for e in reversed(trained)}
    """Its first item -> the steps that others had taken."""
    there = {run for run in union if run not in begun and published(run)}
    ours = {run: max(0, steps.get(run, 0) - begun.get(run, 0)) for run in union if run not in there}
    net = dict.fromkeys(ours, 0)
    for e in trained:
        if e.run in net:
            net[e.run] += e.steps - e.again
    return Spending(
        sum(e.steps for e in trained),
        sum(e.again for e in trained),
        sum(ours.values()),
        sum(steps.get(run, 0) for run in there),
        sum(steps.get(run, 0) for lineage in lineages.values() for run in lineage),
        sum(max(0, ours[run] - net[run]) for run in ours),
        sum(e.steps for e in trained if e.run not in union),
    )


def spent(runs: Path, folder: Path) -> Spending | None:
    """Of the search whose folder that is; None if it never began.

    Raises:
        StoreError: a file of it cannot be read.
    """
    found = space_file.read(folder)
    if found is None:
        return None
    entries = Ledger.entries(folder / LEDGER)
    return spending(entries, found.lineages, found.steps, lambda run: is_published(runs / "stages" / run))
