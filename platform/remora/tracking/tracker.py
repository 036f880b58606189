"""Keeps MLflow up to date with a run folder during work.

    with Tracker(runs, uri) as tracker:      # a thread syncs about once a second, and the end of the block once more
        train()                              # writes records and journals (`Run`), and never waits for MLflow

    Tracker(runs, uri).sync()                # once, by hand: `remora sync`

MLflow never stops training: while it is down, slow or answers 500, the files wait.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import unquote

from remora.errors import RemoraError, TrackingError
from remora.tracking.board import Board
from remora.tracking.connection import database_uri
from remora.tracking.server import Server
from remora.tracking.sync import Sync, Synced

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
INTERVAL = 1.0
"""Seconds between two syncs; or ten times the length of one, if that is more."""
PATIENCE = 60.0
"""Seconds that a sync waits for another process's sync."""


class Tracker:
    """The experiment `experiment` at `uri`, for the run folder `runs`. Safe to use from several threads.

    `uri` is MLFLOW_TRACKING_URI, or else a sqlite file in `runs`.

    Args:
        note: Gets one line, once, if MLflow could not be brought up to date twice in a row.
    """

    def __init__(
        self,
        runs: Path,
        uri: str | None = None,
        experiment: str = "remora",
        note: Callable[[str], None] = log.warning,
    ) -> None:
        self.runs = Path(runs).resolve()
        self.uri = _absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or database_uri(self.runs / "mlflow.db"))
        self.experiment = experiment
        self.server = Server(self.runs, self.uri, experiment)
        self._sync, self._board = Sync(self.server), Board(self.runs)
        self._lock = threading.RLock()
        self._note = note
        self._told: set[str] = set()
        self._failed = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Tracker:
        self._stop.clear()
        self._thread = threading.Thread(target=self._follow, name="tracking", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        assert self._thread
        self._thread.join()
        self._tried(ask=True, wait=PATIENCE)
        self._board.close()

    def _follow(self) -> None:
        ask, rest = True, 0.0
        while not self._stop.wait(rest):
            began = time.monotonic()
            ask = not self._tried(ask, wait=0.0)
            rest = max(INTERVAL, 10 * (time.monotonic() - began))  # at most an eleventh of the time

    def _tried(self, ask: bool, wait: float) -> bool:
        """Whether a sync succeeded. Its errors must not end the work."""
        try:
            with self._lock:
                self._board.write(wait)
        except (RemoraError, OSError) as e:
            self._say(f"{e}; the work goes on, TensorBoard's files are written when there is room")
        try:
            with self._lock:
                report = self._sync.run(ask, wait)
        except (RemoraError, OSError) as e:
            if self._failed or wait:  # one failure alone gets no note
                self._say(f"{e}; the work continues, its record is kept in {self.runs}; later: remora sync")
            self._failed = True
            return False
        self._failed = False
        if report is None and wait:
            self._say(f"another process is still syncing {self.runs}; later: remora sync")
        for line in report.refused if report else []:
            self._say(f"MLflow refuses a record: {line}")
        return report is not None

    def _say(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            with contextlib.suppress(RemoraError, OSError):  # notes go to a file, and the disk may be full
                self._note(line)

    def sync(self) -> Synced:
        """Bring MLflow up to date with the run folder; creates the database and the experiment if needed.

        Raises:
            TrackingError: MLflow cannot be reached, or another process syncs this run folder for a minute.
        """
        with self._lock:
            report = self._sync.run(ask=True, wait=PATIENCE)
        if report is None:
            raise TrackingError(
                f"{self.runs}: another process has been syncing it for {PATIENCE:.0f} s; try again later"
            )
        return report

    def check_there(self) -> None:
        """For read-only callers: MLflow would create a missing database.

        Raises:
            TrackingError: the run folder has no database.
        """
        path = self.server.database
        if path and not path.exists():
            lacks = f"has no {path.name}" if self.runs.is_dir() else "is not there"
            raise TrackingError(
                f"run folder {self.runs} {lacks}: nothing was trained or registered in it; "
                "give the right one with --runs DIR (or REMORA_RUNS), or an MLflow server with --tracking-uri"
            )

    @contextlib.contextmanager
    def client(self) -> Iterator[MlflowClient]:
        """The `MlflowClient`, for use outside training: its exceptions become a one-line `TrackingError`."""
        with self._lock, self.server.answers() as client:
            yield client


def _absolute(uri: str) -> str:
    """Resolve a relative sqlite path against this process's folder, so that other processes use the same file."""
    found = re.fullmatch(r"sqlite:///([^/:?][^?]*)(\?.*)?", uri)
    return database_uri(Path(unquote(found[1])).resolve()) + (found[2] or "") if found else uri
