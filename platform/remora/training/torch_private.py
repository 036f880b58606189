"""The names of torch with an underscore that tracing needs, in one place: a release may move any of them.

tests/training/test_torch_private.py has a test of each, so that a new torch says which one moved. torch 2.13 has no
public name for any of them:

- `FakeTensorMode`, `FakeTensor` and `TorchDispatchMode`: torch's documentation itself imports them from these modules.
- `unset_fake_temporarily`: nothing else computes for real inside the fake mode.
- `torch._C._get_dispatch_mode`, in `tracing`: making a tensor and looking whether it is fake would be public, and would
  cost two more dispatches for every operation of a trace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "FakeTensor",
    "FakeTensorMode",
    "TorchDispatchMode",
    "in_place",
    "tracing",
    "unset_fake_temporarily",
]


def tracing() -> bool:
    """Whether this thread is in the fake mode."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


@contextlib.contextmanager
def in_place() -> Iterator[None]:
    """During the block, modules are where and what they should be: torch cannot convert fake ones in place."""

    def to(self: nn.Module, *args: object, **kwargs: object) -> nn.Module:
        return self

    with mock.patch.object(nn.Module, "to", to):
        yield
