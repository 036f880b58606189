"""What a group of workers is given to train: a file that one process adds tasks to and every worker reads.

    with Feed.fresh(runs) as feed:
        number = feed.give(task)
        ...                          # `executor.train(feed, …)` beside it returns once the feed is closed
        feed.close()

The group stays as long as the feed is open, so the next stage run need not wait for another one, which takes 15 s to
start on two cores. A group that failed is started again and reads the same file: what ended is passed over.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from remora.files import exclusive, lines
from remora.pipeline.executor import Ended, Task

LOOK_EVERY = 0.05
"""Seconds between two looks for the next task."""
FOLDER = "feeds"


class Feed:
    """Tasks in the order in which they are trained."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._outcomes = file.with_suffix(".ended.jsonl")

    @classmethod
    @contextlib.contextmanager
    def fresh(cls, runs: Path, tasks: Sequence[Task] = (), closed: bool = False) -> Iterator[Feed]:
        """A feed of a run folder, gone when the block ends."""
        feed = cls(runs / FOLDER / f"{uuid.uuid4().hex[:12]}.jsonl")
        with exclusive(feed.file.with_suffix(".lease")):
            try:
                for task in tasks:
                    feed.give(task)
                if closed:
                    feed.close()
                yield feed
            finally:
                for file in (feed.file, feed._outcomes, feed.file.with_suffix(".lease")):
                    file.unlink(missing_ok=True)

    def give(self, task: Task) -> int:
        """Add a task; its number, counted from 0."""
        number = len(self._given())
        lines.append(self.file, [{"task": task.plain()}])
        return number

    def close(self) -> None:
        """No more tasks follow: the group ends once it has done all."""
        lines.append(self.file, [{"task": None}])

    def ended(self) -> list[Ended]:
        """How each task ended that did, in order."""
        return [line["ended"] for line in lines.read(self._outcomes, "ended").records]

    def end(self, ended: Ended) -> None:
        """The first task that has not ended does. Of a group, rank 0 says so."""
        lines.append(self._outcomes, [{"ended": ended}])

    @property
    def at(self) -> str:
        """The name of the stage run that is trained, or was last."""
        return str(self._now()[0])

    @property
    def status(self) -> Path:
        """The journal that hears of it."""
        return Path(self._now()[-1])

    def _now(self) -> list[Any]:
        given = self._given()
        return given[min(len(self.ended()), len(given) - 1)]  # a group is started for a task

    def left(self) -> Iterator[Task]:
        """Each task that has not ended, waited for as long as the feed is open. All ranks of a group read the same."""
        number = len(self.ended())
        while True:
            rest = self._lines()[number:]
            if rest and rest[0] is not None:
                yield Task.read(rest[0])
                number += 1
            elif rest or not self.file.with_suffix(".lease").exists():  # closed, or its writer has ended
                return
            else:
                time.sleep(LOOK_EVERY)

    def _lines(self) -> list[Any]:
        """Tasks as they were given; None closes the feed."""
        return [line["task"] for line in lines.read(self.file, "task").records]

    def _given(self) -> list[Any]:
        return [task for task in self._lines() if task is not None]
