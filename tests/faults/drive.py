"""What the fault tests do things to: a process that trains the jobs it is told, one JSON line each, and answers.

python drive.py RUNS [ADDRESS]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from remora.cluster.session import ray_session
from remora.cluster.train import Task, train_stages
from remora.errors import RemoraError
from remora.training.job import StageJob


def main() -> None:
    runs = Path(sys.argv[1])
    with ray_session(sys.argv[2] if len(sys.argv) > 2 else None):
        print("ready", flush=True)
        for line in sys.stdin:
            said = json.loads(line)
            job = StageJob.from_json(said["job"])
            try:
                train_stages([Task(said["name"], job, {})], job.cluster, runs, runs / "status.jsonl")
                print("trained", flush=True)
            except RemoraError as e:
                print(f"{type(e).__name__}: {e}", flush=True)


if __name__ == "__main__":
    main()
