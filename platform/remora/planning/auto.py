"""`cluster: auto`: workers, ZeRO stage, micro batch, checkpointing and offload for the devices that are there.

What the spec sets stays. Of the rest the fastest settings are taken with which every stage fits, in the order of
`planning.fitting`; each was traced, and the rehearsal confirms it before the first step. It loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from remora.catalog import Device
from remora.errors import SpecError
from remora.planning.fitting import cheapest_fit
from remora.planning.outline import read_or_outline
from remora.runs import Store, resolve_stages
from remora.runs.memory import GIB, PlacedStage, StageMemory, stage_memory
from remora.runs.predictions import process_memory
from remora.spec import Cluster, Variant

LARGEST = 64
"""The largest micro batch that is tried, in samples."""
LOADING = 8
"""CPUs of a worker with a GPU, at most: it decodes pictures."""
ROUNDS = 4
"""Passes over the stages, at most, to find settings that fit all of them."""


@dataclass(frozen=True)
class Machine:
    """The devices that are there."""

    device: Device
    name: str
    """In the catalog."""
    count: int
    """GPUs, or CPU cores."""
    cpus: float

    @property
    def words(self) -> str:
        if self.device.is_gpu:
            return f"{self.count} x {self.name}"
        return f"{self.count} CPU core{'s' * (self.count > 1)}"


def settled_cluster(
    variants: Sequence[Variant],
    machine: Machine,
    store: Store,
    alone: bool,
    hear: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[Cluster, str]:
    """The settings for variants of one cluster block, and the line that says why.

    Args:
        alone: One variant trains at a time and gets every device; else each gets as few as it fits without offload.
        hear: Gets the stages for which settings are found, and of how many.

    Raises:
        SpecError: nothing makes a stage fit.
    """
    said, needed = variants[0].cluster, _needed(variants, machine, store)
    if "workers" in said.model_fields_set:
        counts = [said.most_workers]
    elif alone or not machine.device.is_gpu:
        counts = [machine.count if alone else 1]
    else:
        counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n < machine.count] + [machine.count]
    for ranks in counts:
        first = _first(said, needed, machine, ranks)
        settled, memories = _fitted(said, first, needed, hear)
        if memories and (settled.offload == "none" or ranks == counts[-1]):
            return settled, _why(first, settled, memories, needed, machine)
    raise SpecError(
        f"cluster: auto: {', '.join(dict.fromkeys(one.stage.name for one in needed))} fit {machine.words} with no "
        "settings; next: a smaller max_length or model, or see: remora plan SPEC --gpu NAME"
    )


def _needed(variants: Sequence[Variant], machine: Machine, store: Store) -> list[PlacedStage]:
    """Every kind of stage once, those that train most parts first: the others mostly fit what these need."""
    found: dict[str, PlacedStage] = {}
    process = process_memory(store.runs)
    for variant in variants:
        for stage in resolve_stages(variant):
            parts = {part: str(getattr(variant, part)) for part in stage.tune.present}
            kind = f"{stage.model_dump_json(exclude={'mixture', 'lr'})} {parts}"
            if kind not in found:
                datasets = read_or_outline(stage.mixture, store.data)
                found[kind] = PlacedStage(stage, parts, variant.cluster, 1, machine.device, datasets, process)
    return sorted(found.values(), key=lambda one: -len(one.stage.tune.trained))


def _first(said: Cluster, needed: Sequence[PlacedStage], machine: Machine, ranks: int) -> Cluster:
    """The fastest settings, whether they fit or not."""
    share = max(-(-one.stage.batch // ranks) for one in needed)
    given = {name: getattr(said, name) for name in said.model_fields_set - {"auto"}}
    gpu = machine.device.is_gpu
    chosen: dict[str, object] = {
        "workers": ranks,
        "gpus_per_worker": 1.0 if gpu else 0.0,
        "cpus_per_worker": max(1.0, min(LOADING, machine.cpus // machine.count)) if gpu else 1.0,
        "zero": {"none": 0 if ranks == 1 else 2, "optimizer": 2, "all": 3}[said.offload],
        "micro_batch": 1 << (min(LARGEST, share).bit_length() - 1),
        "rehearse": True,
    }
    return Cluster.model_validate(chosen | given)


def _fitted(
    said: Cluster, first: Cluster, needed: Sequence[PlacedStage], hear: Callable[[str, int, int], None]
) -> tuple[Cluster, list[StageMemory]]:
    """The settings with which all stages fit, and the memory of each; no memory if there are none."""
    keep, settled = said.model_fields_set, first
    for again in range(ROUNDS):
        before, memories = settled, []
        for number, one in enumerate(needed):
            if not again:  # later rounds mostly find what is traced already
                hear("stages on fake tensors", number, len(needed))
            placed = replace(one, cluster=settled, ranks=settled.most_workers)
            found = stage_memory(placed)
            if not found.fits:
                change = cheapest_fit(placed, more=False, keep=keep)
                if change is None:
                    return settled, []
                settled = settled.model_copy(update=dict(change.settings))
                found = change.memory
            memories.append(found)
        if settled == before:
            return settled, memories
    return settled, []


def _why(
    first: Cluster,
    settled: Cluster,
    memories: Sequence[StageMemory],
    needed: Sequence[PlacedStage],
    machine: Machine,
) -> str:
    """`cluster: auto on 8 x a100-80: workers: 8, …; finetune, the largest stage, takes 61.2 of 80.0 GiB; …`"""
    names = ("workers", "zero", "micro_batch", "activation_checkpointing", "offload")
    chosen = ", ".join(f"{name}: {str(getattr(settled, name)).lower()}" for name in names)
    most = max(range(len(memories)), key=lambda i: memories[i].total)
    largest, one = memories[most], needed[most]
    said = f"{one.stage.name}, the largest stage, takes {largest.total / GIB:.1f} of {largest.capacity / GIB:.1f} GiB"
    if first == settled:
        return f"cluster: auto on {machine.words}: {chosen}; {said}"
    changed = [n for n in names if getattr(first, n) != getattr(settled, n)]
    without = stage_memory(replace(one, cluster=first, ranks=settled.most_workers))
    fast = ", ".join(f"{name}: {str(getattr(first, name)).lower()}" for name in changed)
    more = f"with {fast} it would take {without.total / GIB:.1f}, most of it {without.terms[0].name}"
    return f"cluster: auto on {machine.words}: {chosen}; {said}; {more}"
