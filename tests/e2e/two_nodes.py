"""Run by test_two_nodes: the stages of a small variant, by one process, or by the workers of a Ray cluster.

REMORA_CATALOG=<folder with tiny-llama> python two_nodes.py <run folder> alone|<address of a cluster of two CPUs>

The run folder has a few records of every dataset below data/. Prints each stage run's losses and norms as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch.distributed as dist

from remora.cluster.session import cpus_and_gpus, ray_session
from remora.cluster.train import train_stages
from remora.pipeline.executor import Task
from remora.pipeline.feed import Feed
from remora.runs import Store, path, resolve_stages
from remora.spec import Cluster, Variant
from remora.training import stage
from remora.training.journal import steps_of

CLUSTER = Cluster(workers=2, zero=3, micro_batch=2, max_failures=0)


def main() -> None:
    runs, where = Path(sys.argv[1]), sys.argv[2]
    plain = Variant(vision="efficientnet-lite0", connector="mlp2x_gelu", llm="tiny-llama", recipe="base")
    short = {s.name: {"steps": 3, "batch": 6, "lr": 1e-3} for s in resolve_stages(plain)}
    store = Store(runs)
    lineage = path(plain.model_copy(update={"overrides": short}), store.data)
    if where == "alone":
        dist.init_process_group("gloo")
        for run in lineage:
            stage.run(store.prepare(run, CLUSTER.model_copy(update={"workers": 1, "zero": 0})))
            store.publish(run.name, {})
        dist.destroy_process_group()
    else:
        with ray_session(where, {"REMORA_CATALOG": os.environ["REMORA_CATALOG"]}):
            while cpus_and_gpus()[0] < 2:  # the second node is on its way
                time.sleep(0.2)
            for run in lineage:
                task = Task(run.name, store.prepare(run, CLUSTER), {}, runs / "status.jsonl")
                with Feed.fresh(runs, [task], closed=True) as feed:
                    train_stages(feed, CLUSTER, runs)
    for run in lineage:
        taken = steps_of(store.journal(run))
        print(json.dumps([[e["loss"], e["grad_norm"]] for e in taken]), flush=True)


if __name__ == "__main__":
    main()
