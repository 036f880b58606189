"""The protocol of training engines. All ranks call the same methods in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from remora.batch import Batch
from remora.model.vlm import VisionLanguageModel

Told = TypeVar("Told")


class Engine(Protocol):
    """Trains one model: gradients summed over ranks, AdamW steps, state in and out by parameter names."""

    model: VisionLanguageModel
    device: torch.device
    rank: int
    world: int
    peaks: Mapping[str, float]
    """Part -> its peak learning rate."""

    @property
    def loss_scale(self) -> float:
        """Factor on losses before the backward pass: 1 except in fp16."""
        ...

    def tell(self, *values: float) -> list[list[float]]:
        """Each value from all ranks (float64), in order of ranks. One collective."""
        ...

    def gather(self, named: Mapping[str, Told]) -> dict[str, Told]:
        """The entries of all ranks, on every rank, in order of ranks."""
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """In the block `forward` has no dropout and no gradient, as for answers; behind it the model is as it was."""
        ...

    def forward(self, batch: Batch) -> Tensor:
        """The summed loss of a micro batch (nats), with its autograd graph."""
        ...

    def backward(self, loss: Tensor, tokens: float, last: bool) -> None:
        """Accumulate the gradients of a micro batch's summed loss; `last` says whether it is the last of its step.

        `tokens` is the number of supervised tokens of the global batch: gradients are those of sum / tokens for any
        split.
        """
        ...

    def step(self, factor: float) -> float | None:
        """Take the optimiser step, each part at its peak rate times `factor`; returns the gradient norm before
        clipping.

        If that is not finite, weights did not change and the gradients are cleared. None means that fp16's loss scale
        was too large: it is smaller now, and the step's passes must be repeated.
        """
        ...

    def weights(self, module: nn.Module, trained_only: bool = False) -> dict[str, Tensor]:
        """The module's parameters and buffers (or only its trained parameters) by its names, on the CPU of rank 0.

        Empty on other ranks.
        """
        ...

    def moments(self) -> dict[str, Tensor]:
        """AdamW's state as `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`, fp32, on the CPU of rank 0."""
        ...

    def state(self) -> dict[str, object]:
        """Everything else that the next step depends on, as JSON."""
        ...

    def load(self, moments: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `moments` and `state` returned; call before the first step."""
        ...

    def memory(self) -> float:
        """Peak memory in GiB: on a GPU, allocated since the last call; on a CPU, of the process so far."""
        ...

    def close(self) -> None:
        """Release the engine's resources."""
        ...
