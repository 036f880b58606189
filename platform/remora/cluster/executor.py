"""The pipeline's `Executor` on this process's Ray session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from remora.cluster.answering import answer, time
from remora.cluster.train import train_stages
from remora.pipeline.executor import AskJob
from remora.pipeline.feed import Feed
from remora.spec import Cluster


class OnRay:
    """Trains on Ray Train and answers in Ray tasks. Needs a Ray session, and a run folder that every node sees."""

    def train(self, feed: Feed, cluster: Cluster, runs: Path) -> None:
        train_stages(feed, cluster, runs)

    def answer(self, job: AskJob, cluster: Cluster) -> Iterator[list[dict[str, object]]]:
        return answer(job, cluster)

    def time(self, job: AskJob, file: Path, cluster: Cluster) -> None:
        time(job, file, cluster)
