"""Synthetic trials over a forest of stages, for searches in simulated time."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any

from remora.pipeline.search.simulation import SimulatedStore, Simulation
from remora.pipeline.search.work import Trial

STAGES = ("language", "align", "pretrain", "finetune")


@dataclass(frozen=True)
class Run:
    """The fields of a stage run that `Work` needs."""

    id: str
    stage: Any
    parent: Run | None
    steps: int

    @property
    def name(self) -> str:
        return self.id


def trial(*path: tuple[str, str, int]) -> Trial:
    """A trial of (stage, what is chosen there, steps): a stage run is named by all choices up to it."""
    run: Run | None = None
    lineage = []
    for stage, choice, steps in path:
        run = Run(f"{run.id}/{choice}" if run else choice, SimpleNamespace(name=stage), run, steps)
        lineage.append(run)
    assert run
    return Trial(run.id, None, tuple(lineage))


def grid(widths=(1, 2, 3, 4), steps=(40, 30, 20, 100)) -> list[Trial]:
    """Trials over a graph of four stages: as many choices at each as `widths` says."""
    choices = product(*[[f"{n[0]}{i}" for i in range(w)] for n, w in zip(STAGES, widths, strict=True)])
    return [trial(*zip(STAGES, choice, steps, strict=True)) for choice in choices]


def store_of(trials: Iterable[Trial], **known) -> SimulatedStore:
    """An empty store in which a step takes a second."""
    steps = {run.id: run.steps for t in trials for run in t.lineage}
    return SimulatedStore(steps, {key: float(n) for key, n in steps.items()}, **known)


def optimum(trials: Iterable[Trial]) -> int:
    """Steps of the union of all paths."""
    return sum(store_of(trials).lengths.values())


def merit(name: str) -> float:
    """The simulated quality of the stage run of that name."""
    return random.Random(name).random()


def simulated(trials, rule, board, slots, store=None, **more) -> Simulation:
    return Simulation(trials, rule, store or store_of(trials), slots, board, **{"measure": 5.0} | more)
