"""How a rank ends: with code 0 once its work is done, whatever its threads are doing."""

from __future__ import annotations

import subprocess
import sys

import pytest

BUSY = """
import threading
import torch
from remora.training.torchrun import leave

def work(begun):
    square = torch.ones(300, 300)
    while True:
        square @ square
        begun.set()

begun = threading.Event()
threading.Thread(target=work, args=(begun,), daemon=True).start()
begun.wait()
print("trained")
"""


@pytest.mark.slow
def test_a_rank_whose_threads_are_inside_torch_ends_with_success() -> None:
    """Without `leave` it aborts: `terminate called without an active exception`."""
    ended = subprocess.run([sys.executable, "-c", BUSY + "leave()"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "trained\n"), ended.stderr
