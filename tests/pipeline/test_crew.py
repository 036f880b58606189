"""A group of workers that is kept for the next task, and ends when there is none for a while."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from remora.pipeline.executor import Task
from remora.pipeline.feed import Feed
from remora.pipeline.search import crew
from remora.pipeline.search.crew import Crew
from remora.spec import Cluster, Stage
from remora.training.job import StageJob


class SlowToEnd:
    """Does every task at once, and ends when the test lets it."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.closed, self.may_end = threading.Event(), threading.Event()

    def train(self, feed: Feed, cluster: Cluster, runs: Path) -> None:
        done: list[str] = []
        self.groups.append(done)
        for task in feed.left():
            done.append(task.name)
            feed.end("trained")
        self.closed.set()
        self.may_end.wait(20)


@pytest.fixture
def task(tmp_path):
    stage = Stage.model_validate(
        {"name": "align", "mixture": ["llava-pretrain-558k"], "batch": 4, "lr": 1e-3, "epochs": 1}
    )

    def make(name: str) -> Task:
        return Task(name, StageJob(stage, {}, tmp_path / name, [], 0, Cluster()), {}, tmp_path / "status.jsonl")

    return make


def test_a_task_that_comes_while_its_group_ends_gets_another(tmp_path, task, monkeypatch):
    """It was given to the group that had been told to end: "its workers ended without a word"."""
    monkeypatch.setattr(crew, "IDLE", 0.05)
    executor = SlowToEnd()
    one = Crew(executor, Cluster(), tmp_path)
    assert one.train(task("a-1")) == "trained"
    assert executor.closed.wait(20)  # nobody came
    threading.Timer(0.2, executor.may_end.set).start()
    assert one.train(task("a-2")) == "trained"
    one.close()
    assert executor.groups == [["a-1"], ["a-2"]]


def test_a_group_is_kept_for_the_next_task(tmp_path, task, monkeypatch):
    monkeypatch.setattr(crew, "IDLE", 60.0)
    executor = SlowToEnd()
    executor.may_end.set()
    one = Crew(executor, Cluster(), tmp_path)
    assert [one.train(task(f"a-{i}")) for i in range(3)] == ["trained"] * 3
    one.close()
    assert executor.groups == [["a-0", "a-1", "a-2"]] and not list((tmp_path / "feeds").iterdir())


@pytest.mark.slow
def test_of_many_idle_ends_none_loses_a_task(tmp_path, task, monkeypatch):
    """Tasks that come at about the time at which the group is sent home."""
    monkeypatch.setattr(crew, "IDLE", 0.03)
    executor = SlowToEnd()
    executor.may_end.set()
    one = Crew(executor, Cluster(), tmp_path)
    for i in range(25):
        assert one.train(task(f"a-{i}")) == "trained"
        time.sleep(0.03)
    one.close()
    assert [name for group in executor.groups for name in group] == [f"a-{i}" for i in range(25)]
