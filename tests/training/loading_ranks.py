"""Run by the ranks of test_sharded to measure memory: a language model is loaded unsharded, then sharded.

Rank 0 prints every rank's MiB as JSON.

torchrun --nproc-per-node 2 loading_ranks.py <folder of the model> <folder of a tiny one>
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import torch.distributed as dist

from remora.model.llm import load_llm
from remora.spec import Cluster
from remora.training.engines import loading
from remora.training.torchrun import leave


def private() -> float:
    """MiB of this process that no file backs; the pages of a mapped file are the kernel's to drop."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


def peak(folder: Path, zero: int) -> float:
    """The most that loading took beyond what was there before, looked at every millisecond."""
    before, most, done = private(), 0.0, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, private())

    thread = threading.Thread(target=look)
    thread.start()
    with loading(Cluster(zero=zero)):
        model, _ = load_llm(folder)
    most = max(most, private())
    done.set()
    thread.join()
    del model
    return most - before


def main() -> None:
    dist.init_process_group("gloo")
    folder = Path(sys.argv[1])
    with loading(Cluster(zero=3)):
        load_llm(Path(sys.argv[2]))  # what the first load imports is not what is weighed
    found = {"whole": peak(folder, 0)}
    dist.barrier()
    found["split"] = peak(folder, 3)
    said: list[dict[str, float]] = [{}] * dist.get_world_size()
    dist.all_gather_object(said, found)
    if dist.get_rank() == 0:
        print(json.dumps(said), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    leave()
