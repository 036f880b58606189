"""Ends a command with one line when its Ray head, or its machine's raylet, has died.

Without it a command waits, a minute by Ray's default, until Ray's C++ code ends the process, with a page of output or
with none. A thread checks whether both still listen and ends the command with one line. If the process ends before
that, a shell process that outlives it prints a line.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

LOST = "what was finished is kept; next: run the same command again"
LAST_WORDS = (
    "remora: this command was ended at once: by Ray, whose head or raylet on this machine died, or from outside "
    f"(kill -9, out of memory); {LOST}"
)
ASK_EVERY = 0.5
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's setting: how long a process tries to reach a lost head before it ends itself."""
OWN_PATIENCE, RAYS_PATIENCE = 10.0, 60.0
"""Seconds without a head: for a local cluster, where it is not restarted; and Ray's default."""


def alive(address: str, slow: bool = False) -> bool:
    """Whether something listens at host:port; `slow` is the answer on a timeout of one second."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1):
            return True
    except TimeoutError:
        return slow
    except (OSError, ValueError):
        return False


def patience() -> float:
    """Seconds for which a head may be gone: less than Ray's own limit, which ends the process without our line."""
    return max(1.0, float(os.environ.get(RECONNECT) or RAYS_PATIENCE) - 5.0)


@contextlib.contextmanager
def watched(processes: Mapping[str, tuple[str, float]], end: Callable[[int], object] = os._exit) -> Iterator[None]:
    """End this process with one line and exit code 1 if one of `processes` dies during the block.

    The block could not continue: it waits for Ray in C++, where no exception reaches it.

    Args:
        processes: Name -> (host:port, seconds for which nothing may listen there).
    """
    ended = threading.Event()
    with last_words() as told:

        def ask() -> None:
            gone: dict[str, float] = {}
            while not ended.wait(ASK_EVERY):
                for name, (address, most) in processes.items():
                    if alive(address, slow=True):
                        gone.pop(name, None)
                    elif time.monotonic() - gone.setdefault(name, time.monotonic()) >= most and not ended.is_set():
                        told()
                        sys.stderr.write(f"remora: {name} at {address} died; {LOST}\n")
                        sys.stderr.flush()
                        end(1)
                        return

        thread = threading.Thread(target=ask, name="ray-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextlib.contextmanager
def last_words(line: str = LAST_WORDS) -> Iterator[Callable[[], None]]:
    """Print `line` on stderr if this process ends within the block, in any way; not after the block, nor once the
    yielded function was called."""
    shell = subprocess.Popen(
        ["/bin/sh", "-c", 'read -r told || printf "%s\\n" "$0" >&2', line],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the command
    )
    assert shell.stdin

    def told() -> None:
        assert shell.stdin
        with contextlib.suppress(OSError, ValueError):
            shell.stdin.write(b"told\n")
            shell.stdin.flush()

    try:
        yield told
    finally:
        told()
        with contextlib.suppress(OSError):
            shell.stdin.close()
        shell.wait()
