"""The first losses of the demo's stages, in one process: used by test_golden, and how to update them.

    python tests/training/golden.py tests/golden/demo.json

Update it only if a change is meant to change results. A change of code then raises NUMERICS (remora/versions.py)
too; a change of the demo's schedules changes its stages' names anyway.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "tests")]

import torch.distributed as dist  # noqa: E402
from ranks import shorten  # noqa: E402

from remora.spec import Cluster  # noqa: E402
from remora.training import stage  # noqa: E402
from remora.training.journal import JOURNAL, steps_of  # noqa: E402
from support.exact_stages import demo_lineage  # noqa: E402

STEPS = 15
"""Of each stage, from where the first steps of the stage before left it."""


def main() -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo")
    shorten(STEPS)
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        store, lineage = demo_lineage(Path(folder))
        for run in lineage:
            stage.run(store.prepare(run, Cluster(zero=0, micro_batch=run.stage.batch)))
            done = store.publish(run.name, {})
            losses[run.stage.name] = [e["loss"] for e in steps_of(done / JOURNAL)]
    Path(sys.argv[1]).write_text(json.dumps(losses, indent=1) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
