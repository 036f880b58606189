"""Who trains a search's stage runs: each by itself, or by a group of workers that is kept for the next."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Protocol

from remora.pipeline.executor import Ended, Executor, Task
from remora.pipeline.feed import LOOK_EVERY, Feed
from remora.spec import Cluster

IDLE = 10.0
"""Seconds without a task after which the group ends, so that others have its room."""


class Trainer(Protocol):
    executor: Executor

    def train(self, task: Task) -> Ended:
        """Train one stage run; how it ended.

        Raises:
            RemoraError: what the executor met.
        """

    def close(self) -> None:
        """Give its room back."""


class OneByOne:
    """Trains each task by itself, in the caller's thread."""

    def __init__(self, executor: Executor, cluster: Cluster, runs: Path) -> None:
        self.executor, self.cluster, self.runs = executor, cluster, runs

    def train(self, task: Task) -> Ended:
        with Feed.fresh(self.runs, [task], closed=True) as feed:
            self.executor.train(feed, self.cluster, self.runs)
            (ended,) = feed.ended()
        return ended

    def close(self) -> None:
        """It has none."""


class Crew:
    """A group of workers for one task after the other, in a thread that stays as long as there is work.

    For one caller at a time.
    """

    def __init__(self, executor: Executor, cluster: Cluster, runs: Path) -> None:
        self.executor, self.cluster, self.runs = executor, cluster, runs
        self._thread: threading.Thread | None = None
        self._feed: Feed | None = None
        self._error: BaseException | None = None
        self._idle: threading.Timer | None = None
        self._lock = threading.Lock()
        self._retired = False
        """Whether the feed was closed: its group does no more tasks, though it may take seconds to end."""

    def train(self, task: Task) -> Ended:
        """As `Trainer`; after a failure the next task gets another group."""
        self._wake()
        with self._lock:
            there = self._feed and self._thread and self._thread.is_alive() and not self._retired
            number = self._feed.give(task) if self._feed and there else None
        if number is None:
            number = self._begin(task)
        assert self._feed and self._thread
        while len(ended := self._feed.ended()) <= number:
            if not self._thread.is_alive() and len(self._feed.ended()) <= number:
                self.close()
                raise self._error or RuntimeError(f"{task.name}: its workers ended without a word")
            time.sleep(LOOK_EVERY)
        self._idle = threading.Timer(IDLE, self._retire)
        self._idle.daemon = True
        self._idle.start()
        return ended[number]

    def close(self) -> None:
        """End the group, and wait until it has."""
        self._wake()
        self._retire()
        if self._thread:
            self._thread.join()
        self._feed = self._thread = None

    def _begin(self, task: Task) -> int:
        """A group whose first task this is."""
        self.close()
        self._error, self._retired = None, False
        begun = threading.Event()

        def work() -> None:
            try:
                with Feed.fresh(self.runs, [task]) as self._feed:
                    begun.set()
                    self.executor.train(self._feed, self.cluster, self.runs)
            except BaseException as e:  # noqa: BLE001 (raised in `train`, in the caller's thread)
                self._error = e
            finally:
                begun.set()

        self._thread = threading.Thread(target=work, name="crew", daemon=True)
        self._thread.start()
        begun.wait()
        if self._feed is None:
            self._thread.join()
            raise self._error or RuntimeError(task.name)
        return 0

    def _wake(self) -> None:
        if self._idle:
            self._idle.cancel()

    def _retire(self) -> None:
        with self._lock:
            if self._feed and self._thread and self._thread.is_alive() and not self._retired:
                self._retired = True
                with contextlib.suppress(FileNotFoundError):
                    self._feed.close()
