"""Questions are asked in pieces, and a worker may die of one. Ray's tasks are generators in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions

from remora.cluster.answering import TRIES, answer
from remora.errors import ClusterError
from remora.pipeline.executor import AskJob
from remora.spec import Cluster

PIECES = [[0, 1], [2], [3, 4], [5]]
Share = tuple[tuple[int, ...], ...]


class Tasks:
    """A stand-in for `ray`: `work` yields a task's pieces, or raises."""

    exceptions = ray.exceptions

    def __init__(self, work: Callable[[tuple[int, ...]], Any]) -> None:
        self.work = work
        self.started: list[Share] = []
        self.options_of: dict[str, Any] = {}

    def remote(self, job: Any) -> Any:
        if not isinstance(job, AskJob):  # the function, of which tasks are made
            return self
        share = tuple(tuple(piece) for piece in job.pieces)
        self.started.append(share)
        return iter(share)

    def options(self, **options: Any) -> Tasks:
        self.options_of = options
        return self

    def wait(self, running: list[Iterator[Any]]) -> Any:
        return [running[-1]], running[:-1]

    def get(self, piece: tuple[int, ...]) -> Any:
        return self.work(piece)


@pytest.fixture
def asked(monkeypatch, tmp_path: Path):
    def asked(work: Callable[[tuple[int, ...]], Any], workers: int = 2, pieces=PIECES) -> tuple[Tasks, Iterator[Any]]:
        tasks = Tasks(work)
        monkeypatch.setitem(sys.modules, "ray", tasks)
        job = AskJob(tmp_path / "bundle", tmp_path, "gqa", tmp_path, pieces)
        return tasks, answer(job, Cluster(workers=workers, cpus_per_worker=3))

    return asked


def test_workers_share_the_pieces_and_every_piece_is_answered_once(asked) -> None:
    tasks, lines = asked(list)
    assert sorted(lines) == PIECES
    assert tasks.started == [((0, 1), (2,)), ((3, 4), (5,))]
    assert (tasks.options_of["num_cpus"], tasks.options_of["max_retries"]) == (3, 0)


def test_no_more_workers_than_pieces_and_none_for_nothing(asked) -> None:
    tasks, lines = asked(list, workers=8, pieces=[[0], [1]])
    assert sorted(lines) == [[0], [1]] and tasks.started == [((0,),), ((1,),)]
    tasks, lines = asked(list, pieces=[])
    assert list(lines) == [] and not tasks.started


def test_what_a_dead_worker_left_is_given_to_another_and_nothing_twice(asked) -> None:
    died = []

    def work(piece):
        if piece == (5,) and len(died) < TRIES - 1:
            died.append(piece)
            raise ray.exceptions.WorkerCrashedError
        return list(piece)

    tasks, lines = asked(work)
    assert sorted(lines) == PIECES
    assert tasks.started[2:] == [((5,),)] * (TRIES - 1)


def test_a_piece_that_every_worker_dies_of_is_one_line(asked) -> None:
    def work(piece):
        if piece == (3, 4):
            raise ray.exceptions.OutOfMemoryError("no memory left")
        return list(piece)

    _, lines = asked(work)
    with pytest.raises(ClusterError, match=f"{TRIES} workers died of the same 2 questions of gqa .OutOfMemoryError.;"):
        list(lines)
