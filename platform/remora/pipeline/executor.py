"""The two things that need processes or machines, and the protocol of whoever runs them.

`remora.pipeline.local.Local` does so on this machine without Ray, `remora.cluster.executor.OnRay` on a cluster. Both
run the same functions (worker.py), so results are equal wherever they were made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from remora.errors import ClusterError, RemoraError

# Ray's controller unpickles what refers to this file, so it imports nothing that loads torch.
if TYPE_CHECKING:
    from remora.spec import Cluster
    from remora.training.job import StageJob


ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    # DeepSpeed's calls of torch.distributed are deprecated in torch 2.13; one line a step and a rank otherwise.
    "PYTHONWARNINGS": "ignore::FutureWarning",
}
"""Of every process that trains or answers."""


@dataclass(frozen=True)
class Task:
    """A stage run to train: its name in the store, its job, and the record that it is published with."""

    name: str
    job: StageJob
    record: dict[str, Any]

    def plain(self) -> tuple[str, str, dict[str, Any]]:
        """As JSON takes it, for another process; `read` there."""
        return self.name, self.job.to_json(), self.record

    @classmethod
    def read(cls, plain: Sequence[Any]) -> Task:
        from remora.training.job import StageJob

        name, job, record = plain
        return cls(name, StageJob.from_json(job), record)


def given_up(tasks: Sequence[Task], cluster: Cluster, error: RemoraError) -> ClusterError:
    """What ends a group of workers that failed once more than `max_failures`; `error` is the last failure."""
    tries = cluster.max_failures + 1
    return ClusterError(f"{tasks[-1].name}: given up after {tries} tries, kept at its last checkpoint; {error}")


@dataclass(frozen=True)
class AskJob:
    """Questions of one benchmark to ask one model, as plain values that any process can read."""

    bundle: Path
    runs: Path
    benchmark: str
    """As it was given: a published name, the catalog's, or the absolute path of a YAML."""
    data: Path
    pieces: Sequence[Sequence[int]]
    """Places among the benchmark's asks (`worker.asks_of`), in pieces that are answered together."""


class Executor(Protocol):
    """Runs stage runs and answers questions."""

    def train(self, tasks: Sequence[Task], cluster: Cluster, runs: Path, status: Path) -> None:
        """Train stage runs in order; returns when all of them are published. `status` hears which one is at work.

        Raises:
            RemoraError: what a worker met and a retry would meet again (a broken picture, a loss that is NaN).
            ClusterError: the workers cannot be placed, or failed more often than `max_failures`.
        """

    def answer(self, job: AskJob, cluster: Cluster) -> Iterator[list[dict[str, Any]]]:
        """The answer lines of each piece, as they come, in any order.

        Raises:
            RemoraError: what a worker met.
            ClusterError: workers that died of the same questions again and again.
        """
