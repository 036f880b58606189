"""One of several ranks on this machine, as `Local` starts them; torchrun's variables say which.

python -m remora.pipeline.rank TASKS.json
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from remora.carrier import carried
from remora.pipeline import worker
from remora.pipeline.executor import Task
from remora.training.torchrun import ALONE, join, leave


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    said = json.loads(Path(sys.argv[1]).read_text())
    runs = Path(said["runs"])
    with carried(runs / "logs"):
        tasks = [Task.read(task) for task in said["tasks"]]
        join({name: os.environ[name] for name in ALONE}, tasks[0].job.cluster.hang_timeout)
        worker.train(tasks, runs, Path(said["status"]), lambda: False)


if __name__ == "__main__":
    main()
    leave()
