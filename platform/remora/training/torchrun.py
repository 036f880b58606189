"""Join torchrun's process group, or one of this process only."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

from remora.errors import ClusterError

ALONE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
"""torchrun's variables for a single rank."""


def join(described: Mapping[str, str] = ALONE, timeout_s: float | None = None) -> None:
    """Join the group of the variables `described`: NCCL with one GPU per rank if torch sees GPUs, else gloo.
    Collectives time out after `timeout_s`; default: torch's.

    Raises:
        ClusterError: there are GPUs, but fewer than ranks.
    """
    rank, have = int(described["LOCAL_RANK"]), torch.cuda.device_count()
    os.environ |= described  # DeepSpeed reads it too
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if have else "cpu")  # it prints what it finds otherwise
    if have:
        if rank >= have:
            raise ClusterError(f"rank {rank} of this machine has no GPU: there are {have}; lower cluster.workers")
        torch.cuda.set_device(rank)
    timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
    dist.init_process_group("nccl" if have else "gloo", timeout=timeout)


def leave() -> NoReturn:
    """End this rank's process, which has done its work, with exit code 0.

    Python ends threads that are inside torch by unwinding their stacks, and torch answers that with `terminate called
    without an active exception`: SIGABRT, after success. Threads of gloo's, DeepSpeed's and our own may be there still.
    So what was written is flushed, and the interpreter is not taken apart.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
