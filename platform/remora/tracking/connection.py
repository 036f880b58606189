"""The connection to MLflow: a client made on first use, one experiment, and two kinds of failure in one line each."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remora.errors import TrackingError
from remora.files import disk_errors
from remora.tracking.backlog import locked

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SHORT, _LONG = "2", "120"  # seconds; the long one is MLflow's default


class Unreachable(TrackingError):
    """MLflow does not answer now, or may not be written by us: try the same call later."""


class Refused(TrackingError):
    """MLflow answered no: the same call would be refused again."""


class Connection:
    """One experiment at one tracking URI. Not thread-safe; `Delivery` serialises."""

    def __init__(self, runs: Path, uri: str, experiment: str) -> None:
        self.runs, self.uri, self.experiment = runs, uri, experiment
        self.shown = re.sub(r"//[^/@]*@", "//…@", uri)  # a URI may hold a password
        self._client: Any = None
        self._experiment_id: str | None = None

    @contextlib.contextmanager
    def answers(self) -> Iterator[Any]:
        """The `MlflowClient`; whatever goes wrong with it becomes `Unreachable` or `Refused`."""
        if self._client is None:
            self._client = _connect(self.uri)
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield self._client
        except TrackingError:
            raise
        except FileNotFoundError as e:
            raise Refused(f"MLflow at {self.shown}: {e.filename} is not there") from e
        except MlflowException as e:
            # A missing right (401, 403) can be given back while a training runs: those calls wait too.
            status = e.get_http_status_code()
            kind = Unreachable if status >= 500 or status in (401, 403, 408, 429) else Refused
            raise kind(f"MLflow at {self.shown}: {_reason(e)}") from e
        except (OSError, SQLAlchemyError) as e:
            raise Unreachable(f"MLflow at {self.shown}: {_reason(e)}") from e
        except Exception as e:
            # What breaks MLflow's client would break it again: it must neither stop a training nor block other calls.
            raise Refused(f"MLflow at {self.shown}: {type(e).__name__}: {_reason(e)}") from e

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Wait for files as long as MLflow would by itself: a server may store a gigabyte before it answers."""
        ours = os.environ.get(_TIMEOUT) == _SHORT
        if ours:
            os.environ[_TIMEOUT] = _LONG
        try:
            yield
        finally:
            if ours:
                os.environ[_TIMEOUT] = _SHORT

    def open(self) -> str:
        """The experiment's id; makes the database and the experiment when they are not there.

        Raises:
            Unreachable, Refused: no answer; the experiment was deleted.
            StoreError: the run folder cannot be made.
        """
        if self._experiment_id is None:
            # Two processes that create one sqlite file at the same time die of "duplicate column name".
            with disk_errors(self.runs), locked(self.runs / ".tracking-open.lock"):
                self._experiment_id = self._experiment()
        return self._experiment_id

    def _experiment(self) -> str:
        with self.answers() as client:
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                # A database has no place for files of its own; MLflow would put them under the current folder.
                local = (self.runs / "mlruns").as_uri() if self.uri.startswith(_DATABASES) else None
                with contextlib.suppress(Refused), self.answers():  # another job was faster
                    return str(client.create_experiment(self.experiment, artifact_location=local))
                found = client.get_experiment_by_name(self.experiment)
        if found is None or found.lifecycle_stage == "deleted":
            back = f"mlflow experiments restore -x {found.experiment_id if found else '…'}"
            raise Refused(
                f"MLflow at {self.shown}: experiment {self.experiment!r} was deleted; bring it back with "
                f"`MLFLOW_TRACKING_URI={self.shown} {back}`"
            )
        return str(found.experiment_id)


def _connect(uri: str) -> Any:
    # MLflow's own patience, seven retries of 120 s, held a training for four minutes when its server went away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault(_TIMEOUT, _SHORT)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # no calls home from somebody's training
    from mlflow import MlflowClient

    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _reason(error: BaseException) -> str:
    """The part of a chained network error that a person wants to read."""
    text = str(error) or type(error).__name__
    known = re.search(r"\[Errno -?\d+\] ([^'\")\]]+)|(timed out)", text)
    return (known[1] or known[2]) if known else text.splitlines()[0][:200]
