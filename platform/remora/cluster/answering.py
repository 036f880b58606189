"""Ray tasks that answer questions: workers get pieces of work and stream answers back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from remora.carrier import carried, ours
from remora.errors import ClusterError
from remora.pipeline import answer_speed, worker
from remora.pipeline.executor import AskJob
from remora.spec import Cluster

TRIES = 3
"""How often a piece is tried; without a limit a piece that kills its worker would be retried forever."""


def _answer(job: AskJob) -> Iterator[list[dict[str, object]]]:
    """The task that a worker runs. Ray shows its name as the process title."""
    with carried(job.runs / "logs"):
        yield from worker.answer(job)


def _time(job: AskJob, file: Path) -> None:
    with carried(job.runs / "logs"):
        answer_speed.in_a_new_process(job, file)


class AnsweringOptions(TypedDict):
    """What Ray gives a worker that answers."""

    num_cpus: float
    num_gpus: float
    scheduling_strategy: str
    """DEFAULT: in a trial, tasks would inherit its placement group, which has no CPU for them."""


def _options(cluster: Cluster) -> AnsweringOptions:
    return {
        "num_cpus": cluster.cpus_per_worker,
        "num_gpus": cluster.gpus_per_worker,
        "scheduling_strategy": "DEFAULT",
    }


def time(job: AskJob, file: Path, cluster: Cluster) -> None:
    """How fast a worker answers the first piece, written into `file`."""
    import ray

    remote = ray.remote(_time).options(**_options(cluster))
    try:
        ray.get(remote.remote(job, file))
    except ray.exceptions.RayError as e:
        raise ours(e, job.runs / "logs") from None


def answer(job: AskJob, cluster: Cluster) -> Iterator[list[dict[str, object]]]:
    """Answer lines of each piece, as they come. A dead worker's remaining questions go to another worker."""
    if not job.pieces:
        return
    import ray

    remote = ray.remote(_answer).options(
        **_options(cluster),
        num_returns="streaming",
        max_retries=0,  # Ray would repeat all of its pieces
    )
    workers, n = min(cluster.most_workers, len(job.pieces)), len(job.pieces)
    shares: list[tuple[Sequence[Sequence[int]], int]]
    shares = [(job.pieces[n * i // workers : n * (i + 1) // workers], 0) for i in range(workers)]
    running: dict[object, tuple[Sequence[Sequence[int]], int]] = {}
    while shares or running:
        for share, tries in shares:
            running[remote.remote(replace(job, pieces=share))] = (share, tries)
        shares = []
        (ready, *_), _ = ray.wait(list(running))
        left, tries = running[ready]
        try:
            lines = ray.get(next(ready))  # type: ignore[arg-type]
        except StopIteration:
            del running[ready]
        except ray.exceptions.RayTaskError as e:
            raise ours(e, job.runs / "logs") from None
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as e:
            del running[ready]
            if tries + 1 == TRIES:
                raise ClusterError(
                    f"{TRIES} workers died of the same {len(left[0])} questions of {job.benchmark} "
                    f"({type(e).__name__}); answers so far are kept; give a worker the memory it needs, then run the "
                    "same command again"
                ) from None
            shares = [(left, tries + 1)]
        else:
            running[ready] = (left[1:], 0)
            yield lines
