"""What a stage asks of the engine that trains it. All ranks call the same methods in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from remora.batch import Batch
from remora.model.vlm import VisionLanguageModel

Told = TypeVar("Told")


class Engine(Protocol):
    """One model on its way: gradients summed over ranks, AdamW steps, state in and out under parameter names."""

    model: VisionLanguageModel
    device: torch.device
    rank: int
    world: int
    peaks: Mapping[str, float]
    """Part -> its peak learning rate."""

    @property
    def loss_scale(self) -> float:
        """What losses are multiplied by before the backward pass: 1 but in fp16."""
        ...

    def tell(self, *values: float) -> list[list[float]]:
        """Each value as all ranks have it (float64), in the order of ranks. One collective."""
        ...

    def gather(self, named: Mapping[str, Told]) -> dict[str, Told]:
        """The entries of all ranks, on every rank, in the order of ranks."""
        ...

    def forward(self, batch: Batch) -> Tensor:
        """The summed loss of a micro batch (nats), on the graph."""
        ...

    def backward(self, loss: Tensor, tokens: float, last: bool) -> None:
        """Add the gradients of a micro batch's summed loss, `last` or not of its step.

        `tokens` is the supervised tokens of the whole global batch: gradients are those of sum / tokens for any split.
        """
        ...

    def step(self, factor: float) -> float | None:
        """Take the optimiser step, each part at its peak rate times `factor`; the gradient norm before clipping.

        If that is not finite, nothing was changed and the gradients are gone. None means that only fp16's loss scale
        was too large: it is smaller now, and the step's passes are to be made again.
        """
        ...

    def weights(self, module: nn.Module, trained_only: bool = False) -> dict[str, Tensor]:
        """The module's parameters and buffers (only the trained parameters if asked), on the CPU, by its own names.

        On rank 0; the others have none.
        """
        ...

    def moments(self) -> dict[str, Tensor]:
        """AdamW's state as `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`, fp32, on the CPU of rank 0."""
        ...

    def state(self) -> dict[str, Any]:
        """What else the next step depends on, as JSON."""
        ...

    def load(self, moments: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `moments` and `state` gave, before the first step."""
        ...

    def memory(self) -> float:
        """GiB: the most that the GPU had allocated since this was last asked; on a CPU, the process's peak so far."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...
