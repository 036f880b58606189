"""A stage's batches, made ahead of the step that trains on them: by a thread of the training process, or by processes.

Which samples a step reads follows from its number alone, so whoever makes it makes the same, and one that died is
replaced by another. Steps come in order.

Processes are forked from a server that holds no threads: a training process has those of Ray, gloo and torch, and a
fork of it copies their locks but not the threads that would open them. The server imports torch and transformers once
(4 s), while the training process still builds its model. Pixels come in files that are only in memory (memfd): a pipe
costs the training process 90 ms for 40 MB, and /dev/shm, where torch would put them, has 64 MB in a container and keeps
what a killed process leaves. docs/loading.md has the figures.
"""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any

import numpy as np
import torch

from remora.errors import TrainingError
from remora.reading.batches import StageData, StepBatches

log = logging.getLogger(__name__)
AHEAD = 2
"""Steps that each process has in hand: one in the making, one that waits for it."""
DEATHS = 3
"""Times that processes may die before the stage stops."""


SMALL = 1 << 16
"""Bytes below which a tensor goes through the pipe."""


class Loader:
    """Iterates over `data.read(step, *share)` for each of `steps`.

    Args:
        share: which part of a step is this rank's.
        processes: how many make batches; 0 for a thread of this process.

    Raises (from `next`):
        RemoraError: what making the step's batches met, as it was raised there.
        TrainingError: processes died more than DEATHS times.
    """

    def __init__(self, data: StageData, share: tuple[Any, ...], steps: range, processes: int) -> None:
        self._steps = deque(steps)
        self._made: deque[tuple[int, Future[StepBatches]]] = deque()
        self._ahead = AHEAD * max(1, processes)
        self._deaths = 0
        self._pool: Executor
        self._start: Callable[[], Executor]
        self._load: Callable[[int], StepBatches]
        if processes:
            start = pickle.dumps((data, share))
            self._start, self._load = partial(_processes, processes, start), _load
        else:
            self._start = partial(ThreadPoolExecutor, 1, "loader")
            self._load = lambda step: data.read(step, *share)
        self._pool = self._start()
        self._fill()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[StepBatches]:
        return self

    def __next__(self) -> StepBatches:
        while self._made:
            step, made = self._made[0]
            try:
                loaded = made.result()
            except BrokenProcessPool:
                self._restart(step)
                continue
            self._made.popleft()
            self._fill()
            return loaded
        raise StopIteration

    def _fill(self) -> None:
        while self._steps and len(self._made) < self._ahead:
            step = self._steps[0]
            try:
                made = self._pool.submit(self._load, step)
            except BrokenProcessPool as e:  # met by `next`, when it comes to this step
                made = Future()
                made.set_exception(e)
            self._made.append((self._steps.popleft(), made))

    def _restart(self, step: int) -> None:
        self._deaths += 1
        what = f"a process that makes batches died {self._deaths} times, now at step {step}"
        if self._deaths > DEATHS:
            raise TrainingError(f"{what}; if the memory was full (dmesg), lower cluster.loaders or cluster.micro_batch")
        log.warning("%s; starting others", what)
        self._pool.shutdown(wait=False)
        self._pool = self._start()
        self._steps.extendleft(reversed([step for step, _ in self._made]))
        self._made.clear()
        self._fill()


def _processes(count: int, start: bytes) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(count, context, _begin, (start,))


# In a process of the pool.

_data: tuple[StageData, tuple[Any, ...]] | None = None
_pickled = b""


def _begin(start: bytes) -> None:
    global _pickled
    _pickled = start
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training process's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    ForkingPickler.register(torch.Tensor, _in_memory)


def _end_with_parent() -> None:
    """A pool's process does not notice that its parent was killed: each holds its siblings' end of the queue open."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _in_memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    """How a tensor is pickled here: the number of a file that is only in memory; a small one by its bytes."""
    values = tensor.numpy()
    if values.nbytes < SMALL or not hasattr(os, "memfd_create"):
        return torch.from_numpy, (values,)
    fd = os.memfd_create("batch")
    with os.fdopen(fd, "wb", closefd=True) as f:
        f.write(values.data)
        f.flush()
        return _mapped, (DupFd(fd), values.shape, values.dtype.str)


def _mapped(sent: Any, shape: tuple[int, ...], kind: str) -> torch.Tensor:
    """The tensor that `_in_memory` sent; its file goes when the tensor does."""
    fd = sent.detach()
    try:
        memory = mmap.mmap(fd, 0)
    finally:
        os.close(fd)
    return torch.from_numpy(np.frombuffer(memory, kind).reshape(shape))


def _load(step: int) -> StepBatches:
    global _data
    if _data is None:  # not in `_begin`, where an error would break the pool and lose its name
        _data = pickle.loads(_pickled)
    data, share = _data
    return data.read(step, *share)
