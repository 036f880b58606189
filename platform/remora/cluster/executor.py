"""The pipeline's `Executor` on this process's Ray session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from remora.cluster.answering import answer
from remora.cluster.train import train_stages
from remora.pipeline.executor import AskJob, Task
from remora.spec import Cluster


class OnRay:
    """Trains on Ray Train and answers in Ray tasks. Needs a Ray session, and a run folder that every node sees."""

    def train(self, tasks: Sequence[Task], cluster: Cluster, runs: Path, status: Path) -> None:
        train_stages(tasks, cluster, runs, status)

    def answer(self, job: AskJob, cluster: Cluster) -> Iterator[list[dict[str, object]]]:
        return answer(job, cluster)
