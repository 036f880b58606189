"""Keep freed memory in the process, so that the next step can reuse it.

glibc's malloc returns freed large blocks and the top of its heap to the kernel, which zeroes every page that it hands
out again: a step of the demo's alignment had 20,000 page faults, a fifth of its time (docs/training-speed.md). Every
training step needs the same memory, so the process keeps it. The peak does not change.
"""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Parameters of mallopt (glibc, malloc.h)."""
HEAP = 64 * 2**20
"""Heap size in bytes of threads other than the main one, as under Ray Train. A completely free heap is unmapped unless
the padding is as large."""


def keep_freed() -> bool:
    """Make malloc keep freed memory; returns whether this malloc supports it."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # The largest value that glibc accepts: blocks above half a heap are always mapped separately.
    told = {MMAP_THRESHOLD: HEAP // 2, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: HEAP}
    return all([mallopt(parameter, value) for parameter, value in told.items()])
