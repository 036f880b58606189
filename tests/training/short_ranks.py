"""Run by the ranks of test_rehearsal: a stage in which one rank has a memory limit after the model is built.

torchrun --nproc-per-node 2 short_ranks.py job.json <rank> <MiB>
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch.distributed as dist

from remora.errors import RemoraError
from remora.training import stage
from remora.training.job import StageJob


def main() -> None:
    job = StageJob.from_json(Path(sys.argv[1]).read_text())
    poor, room = int(sys.argv[2]), int(sys.argv[3]) << 20
    dist.init_process_group("gloo")
    rehearse = stage.rehearse

    def in_little_memory(*given: object) -> None:
        if dist.get_rank() == poor:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room,) * 2)
        rehearse(*given)

    stage.rehearse = in_little_memory
    try:
        stage.run(job)
    except RemoraError as e:
        (job.folder / f"refused-{dist.get_rank()}.txt").write_text(str(e))
        sys.exit(1)


if __name__ == "__main__":
    main()
