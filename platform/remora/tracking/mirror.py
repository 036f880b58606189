"""A training's journal, mirrored to MLflow while it grows.

    with Mirror(tracker, run, folder / "journal.jsonl"):
        train()

The training writes its figures to a file and never waits for a tracker; a thread follows the file.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from remora.files.lines import parse
from remora.tracking import figures
from remora.tracking.client import Tracker
from remora.tracking.figures import Step
from remora.training.journal import FIRST, Attempts, whole

log = logging.getLogger(__name__)
_step = figures.step_of

_TAIL = 256  # bytes that tell whether the file is still the one that was read
_CHUNK = 500  # steps a call, which bounds a line of the backlog


class Mirror:
    """Logs the `step` events of `journal` to run `run_id`, each step once, until the block ends.

    A training that resumes repeats steps: it cuts the journal back and writes them again. Steps that MLflow holds
    already, from this mirror or from one in an earlier process, are left out.

    Args:
        journal: The file, or a function that finds it: a journal moves when its stage run is published.
        interval: Seconds between two looks at the file.
        hear: Is told what the journal notes for people, too; MLflow has it as the tag `remora.notes`.
    """

    def __init__(
        self,
        tracker: Tracker,
        run_id: str,
        journal: Path | Callable[[], Path],
        interval: float = 1.0,
        hear: Callable[[str], None] = lambda note: None,
    ) -> None:
        self.tracker, self.run_id, self.interval, self.hear = tracker, run_id, interval, hear
        self._notes: list[str] = []
        self._began = time.time()
        self._find = journal if callable(journal) else lambda: journal
        self._last: int | None = None
        self._attempts = Attempts()
        self._offset = 0
        self._tail = b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tracking-mirror", daemon=True)

    def __enter__(self) -> Mirror:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._drain()  # what was written after the thread's last look

    def _follow(self) -> None:
        while not self._stop.wait(self.interval):
            self._drain()

    def _drain(self) -> None:
        try:
            events = [e for line in self._new_lines() if (e := _event(line))]
        except OSError as e:
            log.warning("tracking: journal %s cannot be read: %s", self._find(), e)
            return
        if self._last is None:
            self._last = self.tracker.last_step(self.run_id)
        steps: list[Step] = []
        for event in events:
            if event["event"] == "noted" and event["text"] not in self._notes:
                self._notes.append(event["text"])
                if event["time"] >= self._began:  # earlier attempts' were told by earlier commands
                    self.hear(event["text"])
                self.tracker.tag(self.run_id, "remora.notes", "\n".join(self._notes))
            if self._attempts.count(event) and (step := _step(event)) is not None and step[0] > self._last:
                steps.append(step)
                self._last = step[0]
        for i in range(0, len(steps), _CHUNK):
            self.tracker.steps(self.run_id, steps[i : i + _CHUNK])

    def _new_lines(self) -> list[bytes]:
        """Whole lines since the last look; all of them if the file was cut back or replaced."""
        try:
            f = self._find().open("rb")
        except FileNotFoundError:
            return []  # not begun, or being moved at this moment
        with f:
            f.seek(self._offset - len(self._tail))
            if f.read(len(self._tail)) != self._tail:
                # Size alone would not tell: a file that was cut back may have grown past the old offset since.
                self._offset = 0
                f.seek(0)
            data = f.read()
        new = data[: data.rfind(b"\n") + 1]
        if new:
            self._offset += len(new)
            self._tail = new[-_TAIL:]
        return new.split(b"\n")


def _event(line: bytes) -> dict[str, Any] | None:
    """A journal line's event, or None for a line torn by a crash."""
    return next(iter(parse(line + b"\n", FIRST, whole).records), None)
