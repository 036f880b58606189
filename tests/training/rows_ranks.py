"""What the ranks of test_rows_exact run: one stage again and again in one process, each time in other rows.

torchrun --nproc-per-node 2 rows_ranks.py job.json out.json '{"packed": {"rows": "packed", "zero": 2}, …}'
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from remora.training import stage
from remora.training.job import StageJob
from remora.training.journal import JOURNAL, read


def main() -> None:
    job = StageJob.from_json(Path(sys.argv[1]).read_text())
    dist.init_process_group("gloo")
    out = {}
    for name, cluster in json.loads(sys.argv[3]).items():
        folder = job.folder / name
        folder.mkdir(exist_ok=True)
        stage.run(replace(job, folder=folder, cluster=job.cluster.model_copy(update=cluster)))
        out[name] = [e for e in read(folder / JOURNAL) if e["event"] in ("step", "dropped")]
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(out))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
