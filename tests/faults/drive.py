"""The process under test in the fault tests: it trains jobs from stdin, one JSON line each, and answers.

python drive.py RUNS [ADDRESS]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from remora.cluster.session import ray_session
from remora.cluster.train import train_stages
from remora.errors import RemoraError
from remora.pipeline.executor import Task
from remora.pipeline.feed import Feed
from remora.training.job import StageJob


def say(words: str) -> None:
    print(f"drive: {words}", flush=True)  # raylets speak here as well


def main() -> None:
    runs = Path(sys.argv[1])
    with ray_session(sys.argv[2] if len(sys.argv) > 2 else None):
        say("ready")
        for line in sys.stdin:
            said = json.loads(line)
            job = StageJob.from_json(said["job"])
            try:
                task = Task(said["name"], job, {}, runs / "status.jsonl")
                with Feed.fresh(runs, [task], closed=True) as feed:
                    train_stages(feed, job.cluster, runs)
                say("trained")
            except RemoraError as e:
                say(f"{type(e).__name__}: {e}")


if __name__ == "__main__":
    main()
