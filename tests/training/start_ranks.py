"""Every stage of a spec that is not trained yet, on one rank, without Ray; publishes each.

launch(start_ranks.py, 1, spec, run folder)
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist

from remora.runs import Store, path, read_variants
from remora.spec import Cluster
from remora.training import stage


def main() -> None:
    dist.init_process_group("gloo")
    store = Store(Path(sys.argv[2]))
    (variant,) = read_variants(sys.argv[1])
    for run in path(variant, store.data):
        stage.run(store.prepare(run, Cluster()))
        store.publish(run.name, {})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
