"""The process in which vLLM runs: found, started, asked and stopped."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from remora.errors import ServingError
from remora.inference.vllm.wire import Asked, FromWorker, ToWorker, WorkerOptions, receive, send

PYTHON = "REMORA_VLLM_PYTHON"
START = Path(__file__).with_name("start.py")
START_S = 600.0
"""Seconds that a worker may take to load its model; on a GPU it compiles, too."""
NEXT = f"next: make vllm, or pip install 'remora[vllm]' in an environment of its own, then {PYTHON}=ITS/bin/python"


class WorkerGone(ServingError):
    """vLLM's process ended."""


def vllm_python(named: Path | None = None) -> Path:
    """The Python that has vLLM: the one named, $REMORA_VLLM_PYTHON's, or this one.

    Raises:
        ServingError: it has no vLLM.
    """
    told = str(named) if named is not None else os.environ.get(PYTHON)
    if not told:
        if find_spec("vllm") is None:
            raise ServingError(f"engine vllm: vllm is not installed for {sys.executable}; {NEXT}")
        return Path(sys.executable)
    python = Path(told).expanduser().absolute()  # not resolved: a link in an environment's bin is the environment
    look = "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"
    try:
        found = subprocess.run([str(python), "-c", look], capture_output=True, check=False).returncode == 0
    except OSError as e:
        raise ServingError(f"engine vllm: {python} does not start ({e.strerror}); {NEXT}") from None
    if not found:
        raise ServingError(f"engine vllm: vllm is not installed for {python}; {NEXT}")
    return python


class VllmProcess:
    """A worker and its socket. It is started again by `revive` if it died."""

    def __init__(self, python: Path, options: WorkerOptions, threads: int, log: Path) -> None:
        self._python, self._options, self._threads, self._log = python, options, threads, log
        self.version = ""
        """vLLM's."""
        self.added = 0
        """Requests so far: their numbers are never used again."""
        self._open: set[int] = set()
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._peer = ours
        self._heard: queue.SimpleQueue[FromWorker | None] = queue.SimpleQueue()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [str(self._python), str(START), str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=self._environment(),
                start_new_session=True,  # Ctrl-C is ours
            )
        assert self._child.stdin is not None
        try:
            with self._child.stdin as told:
                told.write(json.dumps(self._options).encode())
        except BrokenPipeError:
            pass
        threading.Thread(target=self._listen, args=(ours, self._heard), daemon=True).start()
        self._wait_until_ready()

    def _environment(self) -> dict[str, str]:
        own = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # this is the process of its own
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # replicas on one machine would bind to the same cores
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(self._threads),
        }
        ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}  # of this environment
        return {name: value for name, value in os.environ.items() if name not in ours} | own

    def _listen(self, of: socket.socket, heard: queue.SimpleQueue[FromWorker | None]) -> None:
        while (frame := receive(of)) is not None:
            heard.put(json.loads(frame[0]))
        heard.put(None)

    def _wait_until_ready(self) -> None:
        try:
            first = self._heard.get(timeout=START_S)
        except queue.Empty:
            self.kill()
            raise ServingError(
                f"vLLM has not loaded {self._options['model']} in {START_S:.0f} s; see {self._log}"
            ) from None
        if first is None or "ready" not in first:
            self.kill()
            why = (first or {}).get("failed") or self._last_line()
            raise ServingError(f"vLLM cannot run {self._options['model']}: {why}; see {self._log}, or engine: builtin")
        self.version = first["ready"]

    def _last_line(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return (lines or ["it ended without a word"])[-1][:300]

    @property
    def options(self) -> WorkerOptions:
        return self._options

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    @property
    def pid(self) -> int:
        return self._child.pid

    def revive(self) -> None:
        """Start it again if it died, and drop what it has in work."""
        if self.running:
            self.cancel(sorted(self._open))
        else:
            self.kill()
            self._start()
        self._open = set()

    def add(self, asked: Asked, embeddings: bytes) -> None:
        self._open.add(asked["number"])
        self._send({"add": asked}, embeddings)

    def cancel(self, numbers: Sequence[int]) -> None:
        if numbers:
            self._open.difference_update(numbers)
            self._send({"cancel": list(numbers)})

    def ended(self, number: int) -> None:
        """A request had its last token."""
        self._open.discard(number)

    def hear(self, wait: bool) -> FromWorker | None:
        """What it says next; None if nothing is there and it need not be waited for.

        Raises:
            WorkerGone: it ended.
        """
        try:
            said = self._heard.get(block=wait)
        except queue.Empty:
            return None
        if said is None:
            self._heard.put(None)  # for whoever asks again
            raise self._gone()
        return said

    def _send(self, said: ToWorker, behind: bytes = b"") -> None:
        try:
            send(self._peer, said, behind)
        except OSError:
            raise self._gone() from None

    def _gone(self) -> WorkerGone:
        code = self._child.wait()
        how = f"by signal {-code}" if code < 0 else f"with status {code}: {self._last_line()}"
        return WorkerGone(f"vLLM's process ended {how}; see {self._log}")

    def kill(self) -> None:
        """End it now."""
        self._child.kill()
        self._child.wait()
        self._peer.close()
