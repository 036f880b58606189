"""The names of torch with an underscore that tracing needs, in one place: a release may move any of them.

tests/training/test_torch_private.py has a test of each, so that a new torch says which one moved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch import nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = [
    "FakeTensor",
    "FakeTensorMode",
    "OpOverload",
    "TorchDispatchMode",
    "in_place",
    "storage_key",
    "tracing",
    "tree_leaves",
    "unset_fake_temporarily",
]


def tracing() -> bool:
    """Whether this thread is in the fake mode."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


def storage_key(storage: torch.UntypedStorage) -> int:
    """The address of torch's own object: the same for every Python object of one storage."""
    return storage._cdata


@contextlib.contextmanager
def in_place() -> Iterator[None]:
    """During the block, modules are where and what they should be: torch cannot convert fake ones in place."""

    def to(self: nn.Module, *args: object, **kwargs: object) -> nn.Module:
        return self

    with mock.patch.object(nn.Module, "to", to):
        yield
