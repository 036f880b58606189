"""Prefetch a stage's batches, in a thread or in dataloader workers. Steps come in order.

A step's samples follow from its number only, so any worker makes the same batch, and one that died can be replaced.

Workers are forked from a server without threads. A training process has threads of Ray, gloo and torch; a fork of it
would copy their locks but not the threads that release them. The server imports torch and transformers once (4 s),
while the training process builds its model. Pixels are passed in memory-only files (memfd): a pipe takes 90 ms of the
training process for 40 MB, and /dev/shm, which torch uses, has 64 MB in a container and keeps what killed processes
leave. docs/loading.md has the figures.
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
from remora.spec import Rows

log = logging.getLogger(__name__)
AHEAD = 2
"""Steps queued per worker: one in progress, one waiting."""
DEATHS = 3
"""Maximum deaths of workers before the stage stops."""


SMALL = 1 << 16
"""Smaller tensors, in bytes, go through the pipe."""


class Loader:
    """Iterates over `data.read(step, *share)` for each of `steps`.

    Args:
        share: this rank's part of a step.
        processes: number of dataloader workers; 0 for a thread of this process.

    Raises (from `next`):
        RemoraError: an error of making the step's batches, as raised in the worker.
        TrainingError: workers died more than DEATHS times.
    """

    def __init__(self, data: StageData, share: tuple[int, int, int, Rows], steps: range, processes: int) -> None:
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
            except BrokenProcessPool as e:  # raised by `next` at this step
                made = Future()
                made.set_exception(e)
            self._made.append((self._steps.popleft(), made))

    def _restart(self, step: int) -> None:
        self._deaths += 1
        what = f"a dataloader worker died {self._deaths} times, now at step {step}"
        if self._deaths > DEATHS:
            raise TrainingError(
                f"{what}; if it ran out of memory (dmesg), lower cluster.loaders or cluster.micro_batch"
            )
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


# In a dataloader worker.

_data: tuple[StageData, tuple[object, ...]] | None = None
_pickled = b""


def _begin(start: bytes) -> None:
    global _pickled
    _pickled = start
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    ForkingPickler.register(torch.Tensor, _in_memory)


def _end_with_parent() -> None:
    """End this worker with its parent. It would not notice a killed parent: siblings keep its queue open."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _in_memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    """How a tensor is pickled: as the descriptor of a memfd, or by its bytes if small."""
    values = tensor.numpy()
    if values.nbytes < SMALL or not hasattr(os, "memfd_create"):
        return torch.from_numpy, (values,)
    fd = os.memfd_create("batch")
    with os.fdopen(fd, "wb", closefd=True) as f:
        f.write(values.data)
        f.flush()
        return _mapped, (DupFd(fd), values.shape, values.dtype.str)


def _mapped(sent: Any, shape: tuple[int, ...], kind: str) -> torch.Tensor:
    """The tensor that `_in_memory` sent; its memfd is freed with the tensor."""
    fd = sent.detach()
    try:
        memory = mmap.mmap(fd, 0)
    finally:
        os.close(fd)
    return torch.from_numpy(np.frombuffer(memory, kind).reshape(shape))


def _load(step: int) -> StepBatches:
    global _data
    if _data is None:  # not in `_begin`: an error there would break the pool and be lost
        _data = pickle.loads(_pickled)
    data, share = _data
    return data.read(step, *share)
