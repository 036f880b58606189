"""A plan's stage runs on a device: the memory of each, and their operations as counted. It imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from remora import catalog
from remora.catalog import Device
from remora.catalog.compatibility import check_composition
from remora.data.mixture import Readable
from remora.errors import SpecError
from remora.planning.fitting import Change, cheapest_fit
from remora.planning.outline import read_or_outline
from remora.planning.plan import Plan, PlanRow
from remora.runs import StageRun, Store, union
from remora.runs.memory import GIB, PlacedStage, StageMemory, stage_memory
from remora.runs.operations import SampleSize, sample_size
from remora.runs.predictions import process_memory
from remora.spec import Cluster
from remora.training.traced import Traced

DISK = 12
"""Bytes of a checkpoint a trained parameter: weights and AdamW's moments, fp32."""


@dataclass(frozen=True)
class Sized:
    """The stage runs that take the same memory."""

    runs: tuple[str, ...]
    """Their ids."""
    stage: str
    variants: tuple[str, ...]
    memory: StageMemory
    change: Change | None
    """What makes it fit, where it does not."""
    disk: int
    """Bytes of its checkpoints and parts while it trains."""


def on_device(cluster: Cluster, device: Device, number: int | None) -> Cluster:
    """The cluster with a worker on each of so many devices; default: as many workers as it has."""
    share = cluster.gpus_per_worker or 1.0 if device.is_gpu else 0.0
    workers = number or cluster.least_workers
    each = share if workers == 1 else float(share > 0)
    return cluster.model_copy(update={"workers": workers, "gpus_per_worker": each})


def sized(plan: Plan, cluster: Cluster, device: Device, ranks: int, store: Store) -> tuple[Sized, ...]:
    """The memory of every stage run of a plan that is not trained yet; equal ones once."""
    rows = {row.id: row for row in plan.rows}
    groups: dict[str, list[StageRun]] = {}
    for run in union(plan.paths.values()).values():
        if not rows[run.id].finished:
            groups.setdefault(_key(run), []).append(run)
    found, process = [], process_memory(store.runs)
    for runs in groups.values():
        run, datasets = runs[0], read_or_outline(runs[0].stage.mixture, store.data)
        placed = PlacedStage(run.stage, dict(run.parts), cluster, ranks, device, datasets, process)
        memory = stage_memory(placed)
        change = None if memory.fits else cheapest_fit(placed)
        users = dict.fromkeys(name for r in runs for name in rows[r.id].variants)
        trained = sum(n for _, n in memory.traced.parameters.values())
        disk = trained * DISK * (cluster.keep_checkpoints + 1) + 4 * trained
        found.append(Sized(tuple(r.id for r in runs), run.stage.name, tuple(users), memory, change, disk))
    return tuple(found)


def _key(run: StageRun) -> str:
    """What decides a stage's memory: its parts, what trains, lengths and the batch."""
    stage = run.stage.model_dump(mode="json", include={"tune", "max_length", "batch", "count_pictures", "template"})
    return json.dumps([sorted(dict(run.parts).items()), stage, len(run.stage.mixture)], sort_keys=True)


def check_fits(found: Sequence[Sized], name: str) -> None:
    """Raises:
    SpecError: a stage does not fit; the line says by how much, and what makes it fit.
    """
    for one in found:
        m = one.memory
        if m.fits:
            continue
        gpus = f"{m.ranks} x {name}" if m.ranks > 1 else name
        room = f"{m.total / GIB:.1f} GiB of {m.capacity / GIB:.1f} on {gpus}"
        needs = f"stage {one.stage!r} of {one.variants[0]} takes {room}"
        if one.change is None:
            raise SpecError(f"{needs}, and no cluster setting makes it fit; next: a smaller max_length, or model")
        fit = one.change.memory
        raise SpecError(
            f"{needs}, most of it {m.terms[0].name}; next: set in cluster {one.change.words} "
            f"({fit.total / GIB:.1f} GiB, {fit.margin:.0%} free)"
        )


def counted(plan: Plan, found: Sequence[Sized], store: Store) -> Plan:
    """The plan with operations as counted in the traced passes, in place of the catalog's estimate."""
    of = {run: one.memory.traced for one in found for run in one.runs}
    runs = union(plan.paths.values())

    def row(one: PlanRow) -> PlanRow:
        if one.id not in of:
            return one
        run = runs[one.id]
        datasets: Sequence[Readable] = read_or_outline(run.stage.mixture, store.data)
        return replace(one, operations=operations_counted(of[one.id], run, one.samples, sample_size(datasets)))

    return replace(plan, rows=tuple(map(row, plan.rows)))


def operations_counted(traced: Traced, run: StageRun, samples: int, size: SampleSize) -> float:
    """Operations of a stage over so many samples of this size, all of whose text is supervised."""
    parts, pictures, positions = dict(run.parts), 0.0, 0.0
    llm = catalog.llm(parts["llm"])
    if "vision" in run.stage.tune.present:
        pictures = size.pictures
        positions = pictures * check_composition(
            catalog.vision(parts["vision"]), catalog.connector(parts["connector"]), llm
        )
    length = positions + min(size.text, run.stage.length(llm.context))
    if most := run.stage.whole(llm.context):
        length = max(positions, min(length, most))
    units = traced.flops
    each = pictures * units["picture"] + length * units["token"] + (length - positions) * units["supervised token"]
    return samples * (each + units["squared"] * length**2)
