"""A fake GPU: in an `on_cuda` block, tensors have shapes, dtypes and devices, but no memory.

Torch's fake tensors run every operation's own rules ("Expected all tensors to be on the same device"), not its kernel.
So nothing has a value: what the product reads from a tensor (a count, a token) is given from here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from remora.batch import Batch
from remora.model.patches import attention

CUDA = torch.device("cuda", 0)
TOKEN = 7


@contextlib.contextmanager
def on_cuda(
    *modules: nn.Module, batch: Batch | None = None, lengths: tuple[int, ...] = (), near: bool = False
) -> Iterator[None]:
    """In the block tensors are fake and `modules` are on a GPU; they stay there.

    What is read: `nonzero` finds as many rows as the real `batch` has supervised tokens, `tolist` of a tensor on the
    CPU gives the `lengths` of the batch's packed row. On the GPU a token is `TOKEN`, a truth `near`, a float 0.
    """
    rows, lengths = (batch.supervised, batch.lengths) if batch else (0, lengths)
    told: dict[str, Callable[[Tensor], Any]] = {
        "nonzero": lambda t: t.new_zeros(rows, t.dim(), dtype=torch.long),
        "tolist": lambda t: [near if t.dtype == torch.bool else TOKEN] * len(t) if t.is_cuda else list(lengths),
        "__float__": lambda t: 0.0,
        "__int__": lambda t: 0,
    }
    attention._ends.cache_clear()  # what it keeps are real tensors, or fake ones of another mode
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True):
        # torch switches autocast off where it finds no GPU.
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        patch.setattr(torch, "tensor", functools.partial(_tensor, torch.tensor))
        for name, value in told.items():
            patch.setattr(FakeTensor, name, value, raising=False)
        for module in modules:
            to_cuda(module)
        yield
    attention._ends.cache_clear()


def _tensor(real: Callable[..., Tensor], data: Any, device: Any = "cpu", **options: Any) -> Tensor:
    """torch.tensor, without the values that torch keeps of one so small: moved to a GPU, they would need a driver."""
    made = real(data, **options)
    return torch.empty(made.shape, dtype=made.dtype, device=device)


def to_cuda(module: nn.Module) -> None:
    """What `module.to("cuda")` does, for which torch would ask a driver. Shared weights stay shared."""
    moved: dict[int, Any] = {}
    for child in module.modules():
        for held in (child._parameters, child._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    if id(tensor) not in moved:
                        there = torch.empty_like(tensor, device=CUDA)
                        if isinstance(tensor, nn.Parameter):
                            there = nn.Parameter(there, requires_grad=tensor.requires_grad)
                        moved[id(tensor)] = there
                    held[name] = moved[id(tensor)]
