"""Bytes of tensors that are alive: their peak, and what it was made of.

Every operation's outputs are looked at as torch dispatches it, so autograd's saved tensors, gradients and temporaries
count as well as what Python holds. It works with real tensors, to measure, and with torch's fake ones, which have
shapes but no memory, to predict (`training.traced`). Memory that a kernel takes inside itself is not seen.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from remora.training.torch_private import FakeTensor, TorchDispatchMode, tracing, unset_fake_temporarily

ARANGE = (torch.ops.aten.arange.default, torch.ops.aten.arange.start, torch.ops.aten.arange.start_step)


class LiveBytes(TorchDispatchMode):
    """Use as a context: storages that begin in it are counted until they are freed; others with `see`."""

    def __init__(self) -> None:
        super().__init__()
        self.now: Counter[str] = Counter()
        """Bytes that are alive, by label."""
        self.total = self.peak = 0
        self.at_peak: Counter[str] = Counter()
        """`now` when it came to the peak."""
        self.most: Counter[str] = Counter()
        """The peak of each label alone."""
        self.label = "other"
        self._held: dict[int, tuple[weakref.ref[torch.UntypedStorage], int, str]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if _is_bookkeeping(func, args, kwargs):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is torch.ops.aten.mkldnn_convolution.default and tracing():  # it has no fake kernel
            picture, weight, bias, padding, stride, dilation, groups = args
            func, kwargs = torch.ops.aten.convolution.default, {}
            args = picture, weight, bias, stride, padding, dilation, False, [0, 0], groups
        out = func(*args, **kwargs)
        for tensor in tensors_in(out):
            self.see(tensor)
        return out

    def see(self, tensor: Tensor, label: str | None = None) -> None:
        """Count a tensor's storage, once; with a label, count it under that from now on."""
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key = id(storage)  # torch has one Python object for a storage, as long as that lives
        if key in self._held:
            ref, size, old = self._held[key]
            if label is not None and label != old:
                self._held[key] = ref, size, label
                self._add(old, -size)
                self._add(label, size)
            return
        size, label = storage.nbytes(), label or self.label
        if not size:
            return

        def gone(_: object, key: int = key) -> None:
            _, size, label = self._held.pop(key)
            self._add(label, -size)

        self._held[key] = weakref.ref(storage, gone), size, label
        self._add(label, size)

    def forget(self, tensor: Tensor) -> None:
        """Do not count a tensor's storage any more."""
        key = id(tensor.untyped_storage())
        if key in self._held:
            ref, size, label = self._held[key]
            self._held[key] = ref, 0, label  # known, so that its views are not counted either
            self._add(label, -size)

    def _add(self, label: str, size: int) -> None:
        self.now[label] += size
        self.total += size
        self.most[label] = max(self.most[label], self.now[label])
        if self.total > self.peak:
            self.peak, self.at_peak = self.total, +self.now

    @contextlib.contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """New storages in the block have that label."""
        old, self.label = self.label, label
        try:
            yield
        finally:
            self.label = old


def _is_bookkeeping(func: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    """Whether a traced pass computes it for real: it has no fake input, or makes whole numbers.

    What a batch says (lengths, positions of supervised tokens) decides shapes, so it has to be known.
    """
    if not tracing():
        return False
    tensors = list(tensors_in((args, kwargs)))
    if any(isinstance(t, FakeTensor) for t in tensors):
        return False
    if tensors:
        return True
    dtype = kwargs.get("dtype")
    if isinstance(dtype, torch.dtype):
        return not dtype.is_floating_point
    return func in ARANGE and all(isinstance(n, int) for n in args)


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors of an operation's arguments or result: sequences and mappings, nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
