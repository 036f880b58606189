"""Child processes that are stopped together with all their descendants.

A Ray cluster is a tree of a dozen processes, some of which leave their parent's process group. Every child gets a mark
in its environment that its descendants inherit, so all of them can be found and stopped.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from remora.carrier import unpack
from remora.errors import RemoraError, WorkerError

MARK = "REMORA_CHILD"


def peak_memory() -> int:
    """Bytes that this process had at most. Elsewhere than on Linux it is what getrusage says, which may be of the
    process that it was forked from."""
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # it counts KiB, but on macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Begin `peak_memory` anew from what this process has now, where Linux allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def meanwhile(look: Callable[[], bool | None], seconds: float, name: str) -> Iterator[None]:
    """Call `look` in a thread, every so many seconds, until it returns True or the block ends.

    The end of the block waits for a call that is going on.
    """
    over = threading.Event()

    def follow() -> None:
        while not over.wait(seconds) and not look():
            pass

    thread = threading.Thread(target=follow, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def user_name() -> str:
    """Whose process this is; empty for a container's user without a name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def cpu_kind() -> str:
    """The processor's name, where Linux says it; else the machine's kind."""
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


class Child:
    """A command that writes to a log file and runs in its own session, so that Ctrl-C reaches only the parent."""

    def __init__(self, command: Sequence[str], log: Path, env: dict[str, str] | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.mark = uuid.uuid4().hex
        with log.open("w") as out:
            self.process = subprocess.Popen(
                list(command),
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                # A shell that runs us in the background ignores SIGINT, and children inherit that; we stop them by it.
                preexec_fn=_hear_interrupts,
                env={**os.environ, **(env or {}), MARK: self.mark},
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def error(self) -> RemoraError:
        """The error that the child passed on, else its last output and the path of its log.

        A line of our own is preferred: a parent of a command that Ray ended prints one.
        """
        text = self.log.read_text(errors="replace").strip()
        if found := unpack(text):
            return found
        lines = text.splitlines() or ["it printed nothing"]
        ours = [line.removeprefix("remora: ") for line in lines if line.startswith("remora: ")]
        code, last = self.process.returncode, (ours or lines)[-1]
        how = f"ended by {signal.Signals(-code).name}; its last line: " if code and code < 0 and not ours else ""
        return WorkerError(f"{how}{last} (log: {self.log})")

    def stop(self, grace: float = 20.0) -> None:
        """Stop the child and all its descendants: with SIGINT, then after `grace` seconds by force."""
        for sig, patience in ((signal.SIGINT, grace), (signal.SIGTERM, 5.0)):
            if not self.running:
                break
            self.process.send_signal(sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        deadline = time.monotonic() + 5.0
        while self._left() and time.monotonic() < deadline:
            time.sleep(0.1)  # Ray's processes exit by themselves when their driver does
        deadline = time.monotonic() + 5.0
        while (left := self._left()) and time.monotonic() < deadline:
            # Repeat until none is left: one may have forked meanwhile, and a killed one holds its ports until reaped.
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        if self.running:
            self.process.kill()
        self.process.wait()

    def _left(self) -> list[int]:
        return marked(self.mark)


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def marked(mark: str) -> list[int]:
    """Ids of living processes with this mark in their environment (Linux only; empty elsewhere)."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if needle in (entry / "environ").read_bytes().split(b"\0") and not _is_zombie(entry):
                found.append(int(entry.name))
    return found


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def free_or_refused(host: str, port: int) -> str | None:
    """Why a server cannot listen on host:port, or None if it can."""
    if not 0 < port < 2**16:
        return f"a port is a number from 1 to 65535; found {port}"
    try:
        with socket.create_server((host, port)):
            return None
    except OSError as e:
        return f"{host}:{port} cannot be used ({os.strerror(e.errno) if e.errno else e})"


def remora_command(*args: str) -> list[str]:
    """The command line of another `remora` in the same environment."""
    return [sys.executable, "-m", "remora", *args]
