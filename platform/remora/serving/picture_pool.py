"""Decode untrusted pictures in processes of their own (picture_worker.py), a request at a time in each.

A picture that crashes its process, or takes more memory or CPU time than allowed, costs its request a 400 and nobody
else anything; another process is started at once. One that dies or hangs by other causes costs no request. No Ray here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import queue
import signal
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

from PIL import Image

from remora.serving.args import Limits
from remora.serving.images import files_of
from remora.serving.openai_api import Refusal

LOG = logging.getLogger(__name__)
STARTED_S = 60.0
"""Time for a process to start; it takes 0.3 s on an idle machine."""
WALL = 4.0
"""A process is taken for hung after so many times the CPU seconds of a request, and STARTED_S at least."""
LARGEST = 2**26
"""Pixels of a shrunk picture that are taken from a process in any case."""
KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
"""Of the environment. Keys and tokens in it are not for a process that reads strangers' files."""

Reason = Literal["crashed", "slow", "hung"]


class _Lost(Exception):
    """A process ended, or was ended, over the picture with this number."""

    def __init__(self, reason: Reason, number: int) -> None:
        super().__init__(reason)
        self.reason, self.number = reason, number


class PicturePool:
    """Some processes, each with limits of its own. `decode` may be called by any number of threads."""

    def __init__(self, processes: int, seconds: float, memory: int) -> None:
        """`seconds`: CPU time for the pictures of a request; `memory`: bytes that reading them may take."""
        self.lost = 0
        """Processes that were replaced."""
        self._seconds = seconds
        self._workers = [_Process(memory) for _ in range(processes)]
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        for worker in self._workers:
            self._idle.put(worker)
        weakref.finalize(self, _end, self._workers)

    def start(self) -> None:
        """Start the processes; without it each is started by its first picture."""
        for worker in self._workers:
            worker.start()

    def close(self) -> None:
        _end(self._workers)

    @property
    def pids(self) -> list[int]:
        """Of the processes that were started."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    def decode(
        self, urls: Sequence[str | bytes], limits: Limits, shrink: Callable[[Image.Image], Image.Image]
    ) -> list[Image.Image]:
        """As images.decode, in another process. `shrink` can be pickled.

        Raises:
            Refusal: as images.decode; or 400, a picture that ends its process; 503, processes end by themselves.
        """
        task = pickle.dumps((files_of(urls, limits), limits, shrink, self._seconds))
        worker = self._idle.get()
        try:
            return self._decoded(worker, task, limits)
        finally:
            self._idle.put(worker)

    def _decoded(self, worker: _Process, task: bytes, limits: Limits) -> list[Image.Image]:
        for again in (True, False):
            try:
                return worker.decoded(task, max(STARTED_S, WALL * self._seconds), max(limits.max_pixels, LARGEST))
            except _Lost as e:
                lost = e
            self.lost += 1
            worker.end()
            with contextlib.suppress(OSError):  # no process can be started now; the next picture tries again
                worker.start()
            LOG.warning("a process that reads pictures %s, the %d. one", lost.reason, self.lost)
            if lost.reason == "slow":
                raise _refuse(
                    f"image {lost.number}: reading it takes more than {self._seconds:g} s; send a smaller one",
                    "image_timeout",
                )
            if not again and lost.reason == "crashed" and lost.number:
                raise _refuse(f"image {lost.number}: it ends the process that reads it", "invalid_image")
        raise Refusal("no process can read pictures; try again in 2 s", status=503, code="not_ready", retry_after=2)


@cache
def shared(processes: int, seconds: float, memory: int) -> PicturePool:
    """The pool of this process. Applications in it with the same limits share one."""
    return PicturePool(processes, seconds, memory)


class _Process:
    """One process and the socket to it; used by one thread at a time."""

    def __init__(self, memory: int) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._memory = memory
        self._ready = False

    def start(self) -> None:
        """Raises:
        OSError: the machine starts no more processes.
        """
        if self.process is not None:
            return
        path = os.pathsep.join(each for each in sys.path if each)
        env = {name: os.environ[name] for name in KEPT if name in os.environ} | {"PYTHONPATH": path}
        env |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "remora.serving.picture_worker", str(self._memory)]
        with theirs:
            try:
                self.process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=env)
            except OSError:
                ours.close()
                raise
        self._socket, self._ready = ours, False

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._socket.close()
            self.process = None

    def decoded(self, task: bytes, seconds: float, most: int) -> list[Image.Image]:
        """The pictures of a task, of at most `most` pixels each.

        Raises:
            Refusal: the worker's.
            _Lost: it ended, or did not answer within `seconds`.
        """
        end = time.monotonic() + seconds
        number, found = 0, list[Image.Image]()
        try:
            self.start()
            if not self._ready:
                self._ready = self._received(1, end) == b"R"
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            self._socket.sendall(struct.pack(">Q", len(task)) + task)
            while (kind := self._received(1, end)) != b".":
                if kind == b"@":
                    (number,) = struct.unpack(">I", self._received(4, end))
                elif kind == b"=":
                    width, height = struct.unpack(">II", self._received(8, end))
                    if width * height > most:
                        raise _Lost("crashed", number)
                    pixels = self._received(3 * width * height, end)
                    found.append(Image.frombytes("RGB", (width, height), pixels))
                elif kind in (b"!", b"X"):
                    (length,) = struct.unpack(">I", self._received(4, end))
                    text = self._received(min(length, 2**16), end)
                    if kind == b"X":
                        raise RuntimeError(f"reading a picture failed with {text.decode('ascii', 'replace')[:80]}")
                    told = json.loads(text)
                    raise _refuse(str(told["message"]), str(told["code"]))
                else:
                    raise _Lost("crashed", number)
        except TimeoutError:
            raise _Lost("hung", number) from None
        except (OSError, ValueError, LookupError, TypeError):  # its end, or what no worker of ours sends
            raise _Lost("slow" if self._was_slow() else "crashed", number) from None
        return found

    def _received(self, count: int, end: float) -> bytes:
        """Raises:
        TimeoutError: they did not come until `end`.
        ConnectionResetError: it ended.
        """
        data = bytearray(count)
        view, got = memoryview(data), 0
        while got < count:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            more = self._socket.recv_into(view[got:])
            if not more:
                raise ConnectionResetError
            got += more
        return bytes(data)

    def _was_slow(self) -> bool:
        """Whether it was ended by its limit of CPU time."""
        if self.process is None:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(1) == -signal.SIGPROF
        return False


def _end(workers: Sequence[_Process]) -> None:
    for worker in workers:
        worker.end()


def _refuse(message: str, code: str) -> Refusal:
    return Refusal(message, code=code, param="messages")
