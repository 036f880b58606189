"""Run by the ranks of test_sharded: the model is composed unsharded and sharded, then the stage trains in several ways.

torchrun --nproc-per-node 2 sharded_ranks.py job.json out.json '{"whole": {"zero": 0}, "resumed": {"zero": 3,
"from": "whole"}, …}'

A run that is `from` another begins with that one's checkpoint.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from remora.model.parts import compose
from remora.model.patches.attention import attend_per_sample
from remora.model.split import is_split, whole
from remora.training import stage
from remora.training.engines import loading
from remora.training.job import StageJob
from remora.training.journal import JOURNAL, read


def unlike(job: StageJob) -> dict[str, list[str]]:
    """Names of tensors that differ, in any bit, between the model composed whole and composed split, by where."""
    plain, _ = compose(job.parts, job.seed)
    with loading(job.cluster.model_copy(update={"zero": 3})):
        split, _ = compose(job.parts, job.seed)
    attend_per_sample(split.llm)
    found = {"whole": [n for n, p in split.named_parameters() if not is_split(p)], "differs": []}
    for (name, a), (_, b) in zip(named(plain), named(split), strict=True):
        with whole([b]):
            if not torch.equal(a, b):
                found["differs"].append(name)
    found["still whole"] = [n for n, p in split.named_parameters() if p.numel()]
    again, _ = compose(job.parts, job.seed)
    found["afterwards split"] = [n for n, p in again.named_parameters() if is_split(p)]
    return found


def named(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def main() -> None:
    job = StageJob.from_json(Path(sys.argv[1]).read_text())
    dist.init_process_group("gloo")
    out = {"unlike": unlike(job)}
    for name, how in json.loads(sys.argv[3]).items():
        folder, origin = job.folder / name, how.pop("from", None)
        if dist.get_rank() == 0:
            folder.mkdir()
            if origin:
                shutil.copytree(job.folder / origin / "checkpoints", folder / "checkpoints")
        dist.barrier()
        stage.run(replace(job, folder=folder, cluster=job.cluster.model_copy(update=how)))
        out[name] = [e for e in read(folder / JOURNAL) if e["event"] in ("step", "rehearsed")]
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(out))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
