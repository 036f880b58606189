"""The cheapest change of a cluster's settings with which a stage fits a device.

Settings are tried in the order of the GPU time that they are taken to cost (`COSTS`), and a micro batch is found
between the spec's and 1, from where the memory of both says that it is; what is found has been traced. It is what
trying everything finds (tests/planning/test_fitting.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from remora.catalog import Device
from remora.runs.memory import CONTEXT, PlacedStage, StageMemory, stage_memory
from remora.spec import Cluster

Offload = Literal["none", "optimizer", "all"]
COSTS = {
    **{"checkpointing": 4 / 3, "zero 3": 1.15, "optimizer": 1.3, "all": 2.5},
    **{"halved": 1.02, "doubled": 1.03},
}
"""Factors on a step's GPU time: recomputing each block's forward pass (a third of the work); gathering weights twice a
pass; AdamW on the host, and weights from there; half the micro batch; twice the GPUs. Assumed, for an order."""
DOUBLINGS = 3
"""Of the number of GPUs, that are tried."""


@dataclass(frozen=True)
class Change:
    """Settings that make a stage fit."""

    settings: Mapping[str, object]
    """Of the cluster, those that change."""
    ranks: int
    memory: StageMemory
    factor: float
    """On a step's GPU time, as assumed."""

    @property
    def words(self) -> str:
        said = [f"{name}: {str(value).lower()}" for name, value in self.settings.items()]
        return ", ".join(said)


@dataclass(frozen=True)
class _Way:
    checkpointing: bool
    zero: int
    offload: Offload
    ranks: int
    factor: float


def cheapest_fit(placed: PlacedStage, more: bool = True, keep: Set[str] = frozenset()) -> Change | None:
    """The change that costs the least GPU time; None if nothing makes the stage fit.

    Args:
        more: Whether there may be more GPUs.
        keep: Settings that stay.
    """
    best: Change | None = None
    cluster, ranks, device = placed.cluster, placed.ranks, placed.device
    first = stage_memory(placed.with_settings({"micro_batch": 1}))
    ways = [
        way
        for way in _ways(cluster, ranks, device, DOUBLINGS if more else 0, keep)
        if _held(first, way) + CONTEXT * device.is_gpu <= first.capacity
    ]
    for way in sorted(ways, key=lambda way: (way.factor, way.zero != cluster.zero, way.ranks)):
        if best and way.factor >= best.factor:
            break
        settings = {"activation_checkpointing": way.checkpointing, "zero": way.zero, "offload": way.offload}
        if found := _fitting(replace(placed.with_settings(settings), ranks=way.ranks), "micro_batch" in keep):
            changed = {k: v for k, v in settings.items() if getattr(cluster, k) != v}
            if found.cluster.micro_batch != cluster.micro_batch:
                changed["micro_batch"] = found.cluster.micro_batch
            if way.ranks != ranks:
                changed["workers"] = way.ranks
            halvings = (cluster.micro_batch // found.cluster.micro_batch).bit_length() - 1
            factor = way.factor * COSTS["halved"] ** halvings
            if best is None or factor < best.factor:
                best = Change(changed, way.ranks, found, factor)
    return best


def _held(known: StageMemory, way: _Way) -> float:
    """Bytes of weights, gradients and AdamW's state, at least: what docs/cluster.md says of a parameter."""
    every = sum(n for n, _ in known.traced.parameters.values())
    trained, n = sum(n for _, n in known.traced.parameters.values()), way.ranks
    frozen = (every - trained) * (2 if known.cluster.precision != "fp32" else 4)
    if way.zero == 3:
        return {"none": 4 * every / n + 12 * trained / n, "optimizer": 4 * every / n, "all": 0.0}[way.offload]
    if way.offload == "optimizer":
        return frozen + 4 * trained
    return frozen + trained * (16 if way.zero == 0 else 4 + 12 / n)


def _ways(cluster: Cluster, ranks: int, device: Device, doublings: int, keep: Set[str]) -> Iterator[_Way]:
    """Settings other than the micro batch; never less thrifty than the spec's, and those to keep as they are."""
    counts = [ranks * 2**i for i in range(1 + doublings * device.is_gpu)]
    offloads: tuple[Offload, ...] = ("none", "optimizer", "all") if device.is_gpu else (cluster.offload,)
    checkpointed = [c for c in (False, True) if c or not cluster.activation_checkpointing]
    for checkpointing, zero, offload, n in product(checkpointed, (0, 2, 3), offloads, counts):
        least = {"none": 0, "optimizer": 2, "all": 3}[offload]
        if zero < least or (zero == 3 and n == 1 and offload != "all") or (zero < 2 <= cluster.zero and n > 1):
            continue
        said = {"activation_checkpointing": checkpointing, "zero": zero, "offload": offload}
        if any(getattr(cluster, name) != value for name, value in said.items() if name in keep):
            continue
        factor = COSTS["doubled"] ** ((n // ranks).bit_length() - 1)
        factor *= COSTS["checkpointing"] if checkpointing > cluster.activation_checkpointing else 1.0
        factor *= COSTS["zero 3"] if zero == 3 > cluster.zero else 1.0
        factor *= COSTS.get(offload, 1.0) if offload != cluster.offload else 1.0
        yield _Way(checkpointing, zero, offload, n, factor)


def _fitting(placed: PlacedStage, kept: bool) -> StageMemory | None:
    """The largest micro batch that fits, halving from the cluster's unless that is kept; None if none does."""
    micro, whole = placed.cluster.micro_batch, stage_memory(placed)
    if whole.fits or micro == 1 or kept:
        return whole if whole.fits else None
    best = stage_memory(placed.with_settings({"micro_batch": 1}))
    if not best.fits:
        return None
    each = (whole.total - best.total) / (micro - 1)  # bytes a sample, about
    sizes = [micro >> n for n in reversed(range(1, micro.bit_length())) if micro >> n > 1]
    low, high = 0, len(sizes)  # those below `low` fit and those from `high` on do not: more samples take more
    at = sum(best.total + each * (size - 1) <= best.capacity for size in sizes) - 1
    while low < high:
        at = min(max(at, low), high - 1)
        found = stage_memory(placed.with_settings({"micro_batch": sizes[at]}))
        if found.fits:
            best, low = found, at + 1
            at = low
        else:
            high = at
    return best
