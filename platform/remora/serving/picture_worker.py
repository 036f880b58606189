"""A process that decodes untrusted pictures, of a request at a time: python -P -m remora.serving.picture_worker

It is started by picture_pool.py and talks on its standard input, a socket. A picture that makes it crash, or that takes
too much memory or time, ends this process and nothing else. It has no keys or tokens in its environment, and what it
sends is no pickle, so that a picture that took it over would not have the ingress, too.

A task is `>Q`, the length of what follows, and a pickle: (files, limits, shrink, CPU seconds). Its answer is messages
of one byte, and what that byte says:

    R                      ready, once
    @ >I                   the picture with this number is begun
    = >II, width * height * 3 bytes    a picture, in RGB
    ! >I, bytes            refused: JSON with message and code
    X >I, bytes            shrinking raised another exception: its name
    .                      all pictures are sent
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
from pathlib import Path

from PIL import Image

from remora.serving.images import decode_files
from remora.serving.openai_api import Refusal

FILES = 64
"""Files that it may have open: enough for imports."""


def serve(parent: socket.socket, memory: int) -> None:
    """Answer tasks until `parent` closes."""
    _limit(memory)
    parent.sendall(b"R")
    received = parent.makefile("rb")
    while head := received.read(8):
        files, limits, shrink, seconds = pickle.loads(received.read(*struct.unpack(">Q", head)))

        def begun(number: int) -> None:
            parent.sendall(b"@" + struct.pack(">I", number))

        signal.setitimer(signal.ITIMER_PROF, seconds)  # ends the process, also in the middle of C code
        try:
            for picture in decode_files(files, limits, shrink, begun):
                parent.sendall(b"=" + struct.pack(">II", *picture.size))
                parent.sendall(picture.tobytes())
        except Refusal as refusal:
            _tell(parent, b"!", json.dumps(refusal.body()["error"]).encode())
        except ConnectionError:
            return
        except Exception as error:  # noqa: BLE001 (a fault of ours: the ingress raises it)
            _tell(parent, b"X", type(error).__name__.encode())
        else:
            parent.sendall(b".")
        signal.setitimer(signal.ITIMER_PROF, 0)


def _tell(parent: socket.socket, kind: bytes, text: bytes) -> None:
    parent.sendall(kind + struct.pack(">I", len(text)) + text)


def _limit(memory: int) -> None:
    """May take `memory` bytes more than now, open few files and start no process."""
    Image.init()
    with contextlib.suppress(FileNotFoundError):  # Linux only, as is the limit
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, FILES), (resource.RLIMIT_NPROC, 0)):
        resource.setrlimit(limit, (value, value))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end is the socket's
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with socket.socket(fileno=os.dup(0)) as parent, contextlib.suppress(ConnectionError):
        serve(parent, int(sys.argv[1]))
    os._exit(0)


if __name__ == "__main__":
    # What tasks name, loaded before memory is limited.
    import remora.reading.images  # noqa: F401

    main()
