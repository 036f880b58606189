"""What the ranks of a test run: a few steps of a stage, then a dump of what the engine holds. Started by torchrun.

torchrun --nproc-per-node 2 ranks.py job.json out.json [--die-after STEP] [--mixed]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist

from remora.training import stage
from remora.training.journal import JOURNAL, read


def main() -> None:
    job = stage.StageJob.from_json(Path(sys.argv[1]).read_text())
    dist.init_process_group("gloo")
    die_after = int(sys.argv[sys.argv.index("--die-after") + 1]) if "--die-after" in sys.argv else None

    def on_checkpoint(step: int, loss: float, folder: Path | None) -> None:
        if step == die_after:
            dist.barrier()
            os._exit(9)

    stage.run(job, on_checkpoint)
    if dist.get_rank() == 0:
        losses = [e["loss"] for e in read(job.folder / JOURNAL) if e["event"] == "step"]
        norms = [e["grad_norm"] for e in read(job.folder / JOURNAL) if e["event"] == "step"]
        Path(sys.argv[2]).write_text(json.dumps({"losses": losses, "norms": norms}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
