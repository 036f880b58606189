"""A step's freed memory is reused by the next one."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
PROGRAM = """
import resource, sys, threading
import torch
from remora.training.allocator import keep_freed

if sys.argv[1] == "kept":
    assert keep_freed()
torch.set_num_threads(1)

def step():
    [torch.ones(2**20) for _ in range(32)]  # 4 MiB each

def steps():
    for _ in range(5):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

steps()
thread = threading.Thread(target=steps)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told to")
def test_steps_ask_the_kernel_for_memory_once() -> None:
    def faults(how: str) -> list[int]:
        env = os.environ | {"MALLOC_TRIM_THRESHOLD_": "131072"}  # glibc's own, which it raises as it sees blocks freed
        command = [sys.executable, "-c", PROGRAM, how]
        said = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        return [int(line) for line in said.stdout.split()]

    pages = 10 * 32 * 2**22 // 4096
    assert min(faults("given back")) > pages / 4
    assert max(faults("kept")) < pages / 20  # on the first thread, and on another, as under Ray Train
