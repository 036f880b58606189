"""Memory that a step frees is there for the next one.

glibc's malloc hands large blocks and the top of its heap back to the kernel as they are freed, and the kernel zeroes
every page that it gives again: a step of the demo's alignment had 20,000 page faults, a fifth of its time
(docs/training-speed.md). A process that trains needs at every step what it needed at the one before, so it keeps what
it has. The peak stays as it was.
"""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Parameters of mallopt (glibc, malloc.h)."""
HEAP = 64 * 2**20
"""Bytes of a heap of a thread that is not the first, as under Ray Train. One that is free as a whole is unmapped unless
the padding is as large."""


def keep_freed() -> bool:
    """Let this process keep what it frees; whether its malloc is one that can be told so."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # The largest that glibc takes: blocks above half a heap are mapped on their own whatever it is told.
    told = {MMAP_THRESHOLD: HEAP // 2, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: HEAP}
    return all([mallopt(parameter, value) for parameter, value in told.items()])
