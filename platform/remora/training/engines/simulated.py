"""What DeepSpeed holds and takes on a rank with the settings of `engines.deepspeed`, step by step, on fake tensors.

Written after DeepSpeed 0.19's sources: runtime/zero/stage_1_and_2.py (flat weights, an fp32 copy of the rank's share, a
bucket for the gradients of a backward pass, the share's gradients in a buffer of their own, flattened for the step) and
stage3.py (shares of all weights, a bucket and a buffer for gradients that are never freed, and up to `LIVE` gathered
weights). tests/planning/test_memory.py compares it with the real engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from remora.spec import Cluster
from remora.training.live import LiveBytes

BUCKET = 50_000_000
"""Elements of `reduce_bucket_size`, as `engines.deepspeed` sets it."""
LIVE = 1_000_000_000
"""Gathered weights that ZeRO 3 keeps (`stage3_max_live_parameters`, DeepSpeed's default), in elements."""
FALLBACK = 500_000_000
"""Elements of gradients that ZeRO 0 sums over ranks at once (`buffered_allreduce_fallback`)."""
WEIGHTS, SHARE, GATHERED, COPY = (
    "weights",
    "weights, this rank's share",
    "gathered weights",
    "fp32 copy of trained weights",
)
GRADIENTS, BUCKETS, MOMENTS, STEP = "gradients", "gradient bucket", "AdamW's moments", "the step's flat gradients"


class Simulated:
    """DeepSpeed on one rank of `world`; everything that it allocates is counted by `live`.

    Args:
        groups: The optimiser's groups of trained weights.
        host: Whether offloaded state is in other memory than the model's; on a CPU it is not.
    """

    def __init__(
        self,
        live: LiveBytes,
        model: nn.Module,
        groups: Sequence[Sequence[Tensor]],
        cluster: Cluster,
        world: int,
        host: bool,
    ) -> None:
        self.live, self.zero, self.world = live, cluster.zero, world
        self.groups = [list(group) for group in groups]
        self.trained = [p for group in self.groups for p in group]
        self.offload, self.host = cluster.offload, host
        self.host_bytes = 0
        self.bucket: Tensor | None = None
        self.waiting: list[Tensor] = []
        self.own: Tensor | None = None
        self.averaged: list[Tensor] = []
        self.kept: list[Tensor] = []
        if self.zero == 3:
            self._shares(model)
        else:
            for tensor in [*model.parameters(), *model.buffers()]:
                live.see(tensor, WEIGHTS)
            self._flat() if self.zero else self._hold(MOMENTS, 2 * sum(p.numel() for p in self.trained))
        for p in self.trained:
            p.register_post_accumulate_grad_hook(self._ready)

    def _hold(self, label: str, elements: float, offloaded: bool = False) -> Tensor | None:
        """So many fp32 numbers for good, in host memory if they are offloaded and that is another one."""
        if offloaded and self.host:
            self.host_bytes += int(4 * elements)
            return None
        with self.live.labelled(label):
            self.kept.append(torch.empty(int(elements), dtype=torch.float32))
        return self.kept[-1]

    def _flat(self) -> None:
        """ZeRO 1 and 2: weights become views of flat buffers, of which a rank has an fp32 copy of its share."""
        away = self.offload != "none"
        for group in self.groups:
            with self.live.labelled(WEIGHTS):
                flat = torch.empty(_aligned(sum(p.numel() for p in group), 2 * self.world), dtype=group[0].dtype)
            at = 0
            for p in group:
                p.data = flat[at : at + p.numel()].view(p.shape)
                at += p.numel()
            share = flat.numel() // self.world
            self._hold(COPY, share, away)
            if away:  # a buffer to copy new weights from, and the share's gradients
                self._hold(COPY, share, away)
                self._hold(GRADIENTS, share, away)
            self._hold(MOMENTS, 2 * share, away)
        if away:
            largest = max(p.numel() for p in self.trained)
            self._hold(BUCKETS, largest, away)
            self._hold(BUCKETS, largest)
            self._hold(GRADIENTS, self._owned_elements(), away)

    def _shares(self, model: nn.Module) -> None:
        """ZeRO 3: shares of all weights; gathered ones stay up to `LIVE`. AdamW works on the shares themselves."""
        every = [*model.parameters()]
        total, trained = sum(p.numel() for p in every), sum(p.numel() for p in self.trained)
        # A rank alone has a frozen encoder's weights once; gathered from others, they are there until the peak.
        seen = self.world > 1 or _trains(model)
        again = sum(p.numel() for name, p in model.named_parameters() if seen or not name.startswith("vision."))
        for p in every:
            self.live.forget(p)
        self._hold(SHARE, total / self.world, self.offload == "all")
        self._hold(GATHERED, min(again, LIVE))
        away = self.offload != "none"
        if away:
            self._hold(COPY, trained / self.world, away)
        self._hold(MOMENTS, 2 * trained / self.world, away)
        self._hold(GRADIENTS, trained / self.world, away)
        self._hold(BUCKETS, BUCKET)

    @cached_property
    def _owned(self) -> set[int]:
        """Weights that are in the share of the rank which has the most; one in two shares counts whole."""
        best: tuple[int, set[int]] = (0, set())
        for rank in range(self.world):
            found: list[Tensor] = []
            for group in self.groups:
                share, at = _aligned(sum(p.numel() for p in group), 2 * self.world) // self.world, 0
                for p in group:
                    if at < (rank + 1) * share and at + p.numel() > rank * share:
                        found.append(p)
                    at += p.numel()
            size = sum(p.numel() for p in found)
            best = max(best, (size, {id(p) for p in found}), key=lambda pair: pair[0])
        return best[1]

    def _owned_elements(self) -> int:
        owned = self._owned
        return sum(p.numel() for p in self.trained if id(p) in owned)

    def _ready(self, p: Tensor) -> None:
        """A gradient is complete: at ZeRO 2 and 3 it goes to the bucket."""
        assert p.grad is not None
        self.live.see(p.grad, GRADIENTS)
        if self.zero == 1:
            self._take_bucket()
        if self.zero >= 2:
            self._fill(p)

    def _take_bucket(self) -> None:
        if self.bucket is None and self.zero < 3:
            with self.live.labelled(BUCKETS):
                self.bucket = torch.empty(BUCKET, dtype=torch.float32)

    def _fill(self, p: Tensor) -> None:
        self._take_bucket()
        elements = sum(q.numel() for q in self.waiting)
        if self.waiting and elements + p.numel() > BUCKET:
            self._reduce()
        if p.numel() <= BUCKET:  # it is a view of the bucket from now on
            p.grad = None
        self.waiting.append(p)

    def _reduce(self) -> None:
        """The bucket is summed over ranks; a rank keeps the gradients of its share."""
        owned = self._owned if self.zero < 3 else set()
        for p in self.waiting:
            if id(p) in owned and self.own is None and self.offload == "none":
                with self.live.labelled(GRADIENTS):
                    self.own = torch.empty(self._owned_elements(), dtype=torch.float32)
            p.grad = None
        self.waiting = []

    def end_pass(self, last: bool) -> None:
        """A backward pass ends."""
        if self.zero == 1:
            if not last:
                return  # gradients stay where they are, and so does the bucket
            for p in self.trained:
                if p.grad is not None:
                    self._fill(p)
        if self.zero == 0:
            if last and self.world > 1:
                with self.live.labelled(BUCKETS):
                    torch.empty(min(FALLBACK, sum(p.numel() for p in self.trained)), dtype=torch.float32)
            return
        if self.waiting:
            self._reduce()
        self.bucket = None
        if self.own is not None and not self.averaged:
            self.averaged = [self.own]
        self.own = None

    def step(self) -> None:
        """AdamW's step: the share's gradients are flattened, group by group."""
        if self.zero in (1, 2) and self.averaged:
            with self.live.labelled(STEP):
                for group in self.groups:
                    torch.empty(
                        _aligned(sum(p.numel() for p in group), 2 * self.world) // self.world, dtype=torch.float32
                    )
            self.averaged = []
        for p in self.trained:
            p.grad = None


def _trains(model: nn.Module) -> bool:
    """Whether its vision encoder trains."""
    return any(p.requires_grad for name, p in model.named_parameters() if name.startswith("vision."))


def _aligned(elements: int, multiple: int) -> int:
    return -(-elements // multiple) * multiple
