"""The stage graph of a spec, with what is there already."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from remora.data.mixture import read_mixture
from remora.data.order import mixture_order
from remora.spec import Stage, Variant
from remora.stages import Store, paths, union


@dataclass(frozen=True)
class PlanRow:
    """One stage run: its name, the variants that use it, its steps and samples, and whether it is finished."""

    run: str
    variants: tuple[str, ...]
    steps: int
    samples: int
    finished: bool


@dataclass(frozen=True)
class Plan:
    rows: tuple[PlanRow, ...]

    @property
    def distinct(self) -> int:
        return len(self.rows)

    @property
    def uses(self) -> int:
        """Stage runs if nothing were shared."""
        return sum(len(r.variants) for r in self.rows)

    @property
    def to_train(self) -> int:
        return sum(not r.finished for r in self.rows)

    @property
    def samples(self) -> int:
        """Samples that are still to be read."""
        return sum(r.samples for r in self.rows if not r.finished)

    @property
    def samples_without_sharing(self) -> int:
        return sum(r.samples * len(r.variants) for r in self.rows)


def plan_of(variants: Sequence[Variant], store: Store) -> Plan:
    """The plan of some variants. Reads their datasets.

    Raises:
        RemoraError: a name, dataset or picture that is not there.
    """
    found = paths(variants, store.data)
    rows = []
    for run in union(found.values()).values():
        users = tuple(name for name, p in found.items() if run in p)
        steps, samples = _length(run.stage, store.data)
        rows.append(PlanRow(run.name, users, steps, samples, store.finished(run)))
    return Plan(tuple(rows))


def _length(stage: Stage, data: Path) -> tuple[int, int]:
    if stage.steps:
        return stage.steps, stage.steps * stage.batch
    sizes = [len(d) for d in read_mixture(stage.mixture, data)]
    samples = round(mixture_order(stage.mixture, sizes, 0).epoch_size * (stage.epochs or 1))
    return math.ceil(samples / stage.batch), samples
