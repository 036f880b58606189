"""The `Executor` protocol: train stage runs, answer questions.

`remora.pipeline.local.Local` implements it on this machine without Ray, `remora.cluster.executor.OnRay` on a cluster.
Both run the same functions (worker.py), so their results are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from remora.errors import ClusterError, RemoraError

# Ray's controller unpickles references to this module, so it imports nothing that loads torch.
if TYPE_CHECKING:
    from remora.pipeline.feed import Feed
    from remora.pipeline.search.verdict import RungWatch
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
    status: Path
    """The journal that hears when it begins and ends (`variant.status_file`)."""
    trained: bool = False
    """It is published, and only its last validation is to be made; the job's parts are as the stage left them."""
    watch: RungWatch | None = None
    """Who decides at a search's rungs whether it goes on."""

    def plain(self) -> list[Any]:
        """As JSON takes it, for another process; `read` there."""
        watch = self.watch.plain() if self.watch else None
        return [self.name, self.job.to_json(), self.record, self.trained, watch, str(self.status)]

    @classmethod
    def read(cls, plain: Sequence[Any]) -> Task:
        from remora.pipeline.search.verdict import RungWatch
        from remora.training.job import StageJob

        name, job, record, trained, watch, status = plain
        return cls(name, StageJob.from_json(job), record, Path(status), trained, watch and RungWatch(**watch))


Ended = Literal["trained", "paused"]
"""How a task ended: its stage run is published, or was left at a rung of a search."""


class Tries:
    """Counts how often a group of workers failed at each task."""

    def __init__(self, cluster: Cluster) -> None:
        self._most = cluster.max_failures + 1
        self._failed: Counter[str] = Counter()

    def again(self, name: str, error: RemoraError) -> None:
        """It failed of `error`.

        Raises:
            ClusterError: for once more than `max_failures` of the spec.
        """
        self._failed[name] += 1
        if self._failed[name] >= self._most:
            raise ClusterError(
                f"{name}: given up after {self._most} tries, kept at its last checkpoint; {error}"
            ) from error


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

    def train(self, feed: Feed, cluster: Cluster, runs: Path) -> None:
        """Train stage runs in the order in which they are given; returns when the feed is closed and all have ended.

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

    def time(self, job: AskJob, file: Path, cluster: Cluster) -> None:
        """Have a new process answer the first piece of a job and write into `file` how fast it did
        (`pipeline.answer_speed`).

        Raises:
            RemoraError: what that process met.
        """
