"""The `Executor` protocol: train stage runs, answer questions.

`remora.pipeline.local.Local` implements it on this machine without Ray, `remora.cluster.executor.OnRay` on a cluster.
Both run the same functions (worker.py), so their results are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from remora.errors import ClusterError, RemoraError

# Ray's controller unpickles references to this module, so it imports nothing that loads torch.
if TYPE_CHECKING:
    from remora.spec import Cluster
    from remora.training.job import StageJob


ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    # DeepSpeed's calls of torch.distributed are deprecated in torch 2.13: one warning per step and rank otherwise.
    "PYTHONWARNINGS": "ignore::FutureWarning",
}
"""The environment of every process that trains or answers."""


@dataclass(frozen=True)
class Task:
    """A stage run to train: its name in the store, its job, and the record it is published with."""

    name: str
    job: StageJob
    record: dict[str, Any]
    trained: bool = False
    """It is published, and only its last validation is to be made; the job's parts are as the stage left them."""

    def plain(self) -> tuple[str, str, dict[str, Any], bool]:
        """As JSON values, for another process, which calls `read`."""
        return self.name, self.job.to_json(), self.record, self.trained

    @classmethod
    def read(cls, plain: Sequence[Any]) -> Task:
        from remora.training.job import StageJob

        name, job, record, trained = plain
        return cls(name, StageJob.from_json(job), record, trained)


def given_up(tasks: Sequence[Task], cluster: Cluster, error: RemoraError) -> ClusterError:
    """The error of a group of workers that failed more than `max_failures` times; `error` is the last failure."""
    tries = cluster.max_failures + 1
    return ClusterError(f"{tasks[-1].name}: given up after {tries} tries, kept at its last checkpoint; {error}")


@dataclass(frozen=True)
class AskJob:
    """Questions of one benchmark for one model, as plain values that any process can read."""

    bundle: Path
    runs: Path
    benchmark: str
    """As given: a published name, the catalog's, or the absolute path of a YAML."""
    data: Path
    pieces: Sequence[Sequence[int]]
    """Indices into the benchmark's asks (`worker.asks_of`), in pieces that are answered together."""


class Executor(Protocol):
    """Runs stage runs and answers questions."""

    def train(self, tasks: Sequence[Task], cluster: Cluster, runs: Path, status: Path) -> None:
        """Train stage runs in order; returns when all are published. The file `status` names the one being trained.

        Raises:
            Paused: a stage was asked to stop (`Store.stop`); those before it are published.
            RemoraError: a worker's error that a retry would repeat (a broken picture, a NaN loss).
            ClusterError: the workers cannot be placed, or failed more often than `max_failures`.
        """

    def answer(self, job: AskJob, cluster: Cluster) -> Iterator[list[dict[str, Any]]]:
        """The answer lines of each piece, as they come, in any order.

        Raises:
            RemoraError: a worker's error.
            ClusterError: workers died of the same questions repeatedly.
        """
