"""What the platform writes to MLflow: one logical run a key, through restarts of the training and of the server.

    tracker = Tracker(runs)
    tracker.prepare()                                    # once, in the driver
    run = tracker.start("share-Sig-Phi", key=digest)     # the same key gives the same run
    tracker.metrics(run, {"loss": 0.7}, step=12)
    tracker.finish(run)

Training never stops because the tracker did: after `prepare` no call raises for MLflow's sake. A call that MLflow does
not take waits in `<runs>/tracking-backlog.jsonl`, and everything behind it waits too, so that order is kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from remora.errors import TrackingError
from remora.tracking import figures
from remora.tracking.connection import Unreachable, database_uri
from remora.tracking.delivery import PENDING, Delivery
from remora.tracking.figures import Input, Step
from remora.tracking.server import Server

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """The experiment `experiment` at `uri`, for the run folder `runs`.

    `uri` is MLFLOW_TRACKING_URI, or else a sqlite file in `runs`, absolute: Ray workers have other working folders.
    A tracker pickles as its three arguments; any process may make its own. Safe to use from several threads.
    """

    def __init__(self, runs: Path, uri: str | None = None, experiment: str = "remora") -> None:
        self.runs = Path(runs).resolve()
        self.uri = _absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or database_uri(self.runs / "mlflow.db"))
        self.experiment = experiment
        self.server = Server(self.runs, self.uri, experiment)
        self._delivery = Delivery(self.server)

    def __reduce__(self) -> tuple[type[Tracker], tuple[Path, str, str]]:
        return Tracker, (self.runs, self.uri, self.experiment)

    def prepare(self) -> None:
        """Make the database and the experiment, and write what an earlier job left behind. Call it before others write.

        Raises:
            TrackingError: MLflow cannot be reached; one line, after about five seconds at most.
        """
        try:
            with self._delivery.lock:
                self.server.open()
        except Unreachable as e:
            raise self.unreachable(e) from e
        self.replay()

    def unreachable(self, error: Unreachable) -> TrackingError:
        """With what to do about it."""
        remote = self.uri.startswith("http")
        hint = "start it with `mlflow server`, or unset" if remote else "choose another --runs DIR, or set"
        return TrackingError(f"{error}; {hint} MLFLOW_TRACKING_URI")

    def check_there(self) -> None:
        """For who only asks: MLflow would make a database where there is none.

        Raises:
            TrackingError: the run folder's database is not there.
        """
        path = self.server.database
        if path and not path.exists():
            lacks = f"has no {path.name}" if self.runs.is_dir() else "is not there"
            raise TrackingError(
                f"run folder {self.runs} {lacks}: nothing was trained or registered in it; "
                "give the right one with --runs DIR (or REMORA_RUNS), or an MLflow server with --tracking-uri"
            )

    def start(
        self,
        name: str,
        *,
        parent: str | None = None,
        key: str | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> str:
        """A running MLflow run, and its id.

        Args:
            name: What the run list shows.
            parent: The run it is shown under.
            key: Its logical identity. A run with this key is resumed, whatever its status, instead of making another.
            params: Settings, nested as they come. A resumed run keeps its first value of a param; another value is
                kept as the tag `remora.changed.<param>`.

        Without an answer from MLflow the id is a local one, `pending-…`, good for every method here in every process;
        the run is made when the backlog is replayed.
        """
        key = key or uuid.uuid4().hex
        record = {"do": "start", "run": f"{PENDING}{key}", "at": _now(), "key": key, "name": name, "parent": parent}
        record |= {"tags": {k: str(v) for k, v in (tags or {}).items()}, "params": figures.params(params or {})}
        self._delivery.send(record)
        return self._delivery.started(f"{PENDING}{key}")

    def metrics(self, run_id: str, values: Mapping[str, Any], step: int | None = None) -> None:
        """Log the numbers in `values`; nested dicts give dotted names, what is not a number is left out."""
        numbers = figures.metrics(values)
        self._delivery.send({"do": "metrics", "run": run_id, "at": _now(), "step": step or 0, "metrics": numbers})

    def steps(self, run_id: str, steps: Sequence[Step]) -> None:
        """Log training steps in order; a step that the run has already is left out."""
        if steps:
            self._delivery.send({"do": "steps", "run": run_id, "steps": list(steps)})

    def text(self, run_id: str, text: str, file: str) -> None:
        """Store `text` as the run's artifact `file`."""
        self._delivery.send({"do": "text", "run": run_id, "text": text, "file": file})

    def artifacts(self, run_id: str, folder: Path, path: str = "") -> None:
        """Store the files of `folder` under the run's artifact folder `path`. While it waits, `folder` must stay."""
        place = Path(folder).resolve()  # a run folder that was moved meanwhile still has what lies in it
        place = place.relative_to(self.runs) if place.is_relative_to(self.runs) else place
        self._delivery.send({"do": "artifacts", "run": run_id, "folder": str(place), "path": path})

    def inputs(self, run_id: str, inputs: Sequence[Input]) -> None:
        """Name the data that the run reads; what it has already is left alone."""
        if inputs:
            self._delivery.send({"do": "inputs", "run": run_id, "inputs": [i.as_json() for i in inputs]})

    def tag(self, run_id: str, key: str, value: str) -> None:
        self._delivery.send({"do": "tag", "run": run_id, "key": key, "value": str(value)})

    def finish(self, run_id: str, status: Status = "FINISHED") -> None:
        """End the run. The last chance of this process: MLflow is tried even if it did not answer a moment ago."""
        self._delivery.send({"do": "finish", "run": run_id, "at": _now(), "status": status}, urgent=True)

    def replay(self) -> int:
        """Write the waiting calls, in order; how many lines still wait afterwards."""
        return self._delivery.replay()

    def finished(self, key: str) -> str | None:
        """The id of the run that `start` would resume for `key`, if it ended well; None also without an answer."""
        return self._delivery.finished(key)

    def last_step(self, run_id: str) -> int:
        """The last step of `loss` that MLflow holds for the run; -1 when there is none or no answer."""
        return self._delivery.last_step(run_id)

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """The `MlflowClient`, for what is not training: its exceptions become a `TrackingError` of one line."""
        with self._delivery.lock, self.server.answers() as client:
            yield client

    def real(self, run_id: str) -> str:
        """MLflow's id of a run that was started while MLflow did not answer; any other id as it is.

        Raises:
            TrackingError: no answer, or the run was not made yet.
        """
        return self._delivery.real(run_id)


def _now() -> int:
    return int(time.time() * 1000)


def _absolute(uri: str) -> str:
    """A relative sqlite path means this process's folder, in other processes too."""
    found = re.fullmatch(r"sqlite:///([^/:?][^?]*)(\?.*)?", uri)
    return database_uri(Path(unquote(found[1])).resolve()) + (found[2] or "") if found else uri
