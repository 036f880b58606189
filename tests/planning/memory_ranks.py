"""Run by the ranks of test_memory: stages' largest passes and a step for real, beside what is traced.

torchrun memory_ranks.py <cases.json> <out.json>
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import torch.distributed as dist

from remora.spec import Cluster, Stage
from remora.training.measured import measure
from remora.training.rehearsal import Pass
from remora.training.traced import trace


def main() -> None:
    dist.init_process_group("gloo")
    found = {}
    for name, case in json.loads(Path(sys.argv[1]).read_text()).items():
        stage, cluster = Stage.model_validate(case["stage"]), Cluster.model_validate(case["cluster"])
        one = Pass(*case["pass"])
        traced = trace(stage, case["parts"], cluster, one, dist.get_world_size(), False, case["several"])
        measured = measure(stage, case["parts"], cluster, one, case["several"])
        told = [0] * dist.get_world_size()
        dist.all_gather_object(told, measured.peak)
        found[name] = {"traced": traced.peak, "terms": traced.at_peak, "measured": max(told)}
        gc.collect()
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
