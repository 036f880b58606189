"""The connection to MLflow: a client made on first use, one experiment, and two kinds of failure in one line each."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlparse

from remora.errors import TrackingError
from remora.extras import missing
from remora.files import copy, disk_errors, write_atomic
from remora.tracking.locks import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
ARTIFACTS = "mlruns"
KIND, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
"""Without this tag MLflow's page of an experiment guesses the kind, or asks."""
AS_TRAINING = "workflowType=machine_learning"
"""In an address of MLflow's pages: they show training. In a new browser they show an empty view of traces, whatever the
kind is."""
_OURS = re.compile(rf"/{ARTIFACTS}/([0-9a-f]{{32}}/artifacts(?:/.*)?)$")
log = logging.getLogger(__name__)
_SHORT, _LONG = "2", "120"  # seconds; the long one is MLflow's default


class MlflowUnreachable(TrackingError):
    """MLflow does not answer, or we have no write access: try the same call later."""


class MlflowRefused(TrackingError):
    """MLflow refused the call, and would refuse it again."""


class MlflowMissing(MlflowRefused):
    """MLflow has no such run, model or version."""


class Connection:
    """One experiment at one tracking URI. Not thread-safe; `Tracker` serialises."""

    def __init__(self, runs: Path, uri: str, experiment: str) -> None:
        self.runs, self.uri, self.experiment = runs, uri, experiment
        self.shown = re.sub(r"//[^/@]*@", "//…@", uri)  # a URI may hold a password
        self.database = database(uri)
        """The file of a sqlite database, None for another store."""
        self._client: MlflowClient | None = None
        self._opened = False
        self._misread = _misread(uri)
        self._experiment_id: str | None = None

    @contextlib.contextmanager
    def answers(self) -> Iterator[MlflowClient]:
        """The `MlflowClient`; its errors become `MlflowUnreachable` or `MlflowRefused`."""
        if self.database:
            self._check_free(self.database)
        if self._client is None:
            try:
                self._client = _connect(self.uri)
            except ModuleNotFoundError as e:
                line = missing(e, "track")
                raise (MlflowUnreachable(line) if line else self._away(f"cannot be opened: {e}")) from e
            except Exception as e:  # a scheme that MLflow does not know
                raise self._away(f"cannot be opened: {_reason(e)}") from e
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield self._client
        except TrackingError:
            raise
        except FileNotFoundError as e:
            raise MlflowRefused(f"MLflow at {self.shown}: {e.filename} is missing") from e
        except MlflowException as e:
            # A missing permission (401, 403) can be granted while training runs: those calls wait too.
            status = e.get_http_status_code()
            if status >= 500 or status in (401, 403, 408, 429):
                raise self._away(_reason(e)) from e
            kind = MlflowMissing if e.error_code == "RESOURCE_DOES_NOT_EXIST" else MlflowRefused
            raise kind(f"MLflow at {self.shown}: {_reason(e)}") from e
        except (OSError, SQLAlchemyError) as e:
            raise self._away(_reason(e)) from e
        except Exception as e:
            # An error inside MLflow's client would recur: it must neither stop training nor block other calls.
            # Before the first answer it is the store that cannot be opened: that can be fixed.
            reason = f"{type(e).__name__}: {_reason(e)}"
            raise (MlflowRefused(f"MLflow at {self.shown}: {reason}") if self._opened else self._away(reason)) from e
        self._opened = True
        if self._misread and self._misread.exists():  # made again when the registry is used
            with contextlib.suppress(OSError):
                os.removedirs(self._misread)

    def _away(self, reason: str) -> MlflowUnreachable:
        """The error, with what to do about it."""
        hint = (
            "start it with `mlflow server`, or unset"
            if self.uri.startswith("http")
            else "choose another --runs DIR, or set"
        )
        return MlflowUnreachable(f"MLflow at {self.shown}: {reason}; {hint} MLFLOW_TRACKING_URI")

    def _check_free(self, path: Path) -> None:
        """Take the write lock that every call needs: MLflow would wait 20 s for it, and log a traceback each time.

        Raises:
            MlflowUnreachable: another process held it until the timeout.
        """
        if not path.is_file():
            # At each call MLflow would try for minutes to open the file.
            if path.exists():
                raise self._away(f"{path.name} is not a file; move it away and one is made")
            if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
                raise self._away(f"{path.parent} is not writable")
            return
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=float(_SHORT), isolation_level=None)) as asked:
                asked.execute("BEGIN IMMEDIATE")
                asked.execute("ROLLBACK")
        except sqlite3.OperationalError as e:
            if "locked" in str(e):
                raise self._away("another process holds the database locked") from e
            if "unable to open" in str(e):
                raise self._away(f"{path.name} cannot be opened: {e}") from e
        except sqlite3.DatabaseError as e:  # MLflow would report the same after a page of output
            raise self._away(f"{e}; move {path.name} away and a new one is made") from e

    def local(self, uri: str) -> Path | None:
        """The folder of an address if it is a path; None for a remote store.

        This decides what is linked and what is uploaded. A path is on this machine, or on a disk that all machines see,
        and gets hard links (copies, from another disk). Any other address (`mlflow-artifacts:`, `s3:`, …) gets the
        files themselves, so its readers need no run folder.
        Artifacts of the run folder's own database are below it, regardless of what the database says: it may have been
        moved.
        """
        url = urlparse(uri)
        if url.scheme not in ("", "file"):
            return None
        path = Path(unquote(url.path))
        if self.database and self.database.parent == self.runs and (found := _OURS.search(str(path))):
            return self.runs / ARTIFACTS / found[1]
        return path

    def upload(self, run: str, folder: Path, path: str) -> None:
        """Store the files of `folder` as the run's artifacts below `path`; on the same disk as hard links.

        Raises:
            MlflowRefused: `folder` is gone.
        """
        if not folder.is_dir():  # MLflow would silently upload nothing
            raise MlflowRefused(f"{folder} is gone, it cannot be uploaded")
        with self.answers() as client:
            place = self.local(client.get_run(run).info.artifact_uri)  # fails fast; an upload waits long
            if place is None:
                with self.patient():
                    client.log_artifacts(run, str(folder), path)
                return
        with disk_errors(self.runs):
            copy(folder, place / path)

    def write_text(self, run: str, text: str, file: str) -> None:
        """Store `text` as the run's artifact `file`."""
        with self.answers() as client:
            place = self.local(client.get_run(run).info.artifact_uri)
            if place is None:
                client.log_text(run, text, file)
                return
        with disk_errors(self.runs):
            write_atomic(place / file, text)

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Use MLflow's own timeout for files: a server may store a gigabyte before it answers."""
        ours = os.environ.get(_TIMEOUT) == _SHORT
        if ours:
            os.environ[_TIMEOUT] = _LONG
        try:
            yield
        finally:
            if ours:
                os.environ[_TIMEOUT] = _SHORT

    def open(self) -> str:
        """The experiment's id; creates the database and the experiment if needed.

        Raises:
            MlflowUnreachable, MlflowRefused: no answer; the experiment was deleted.
            StoreError: the run folder cannot be created.
        """
        if self._experiment_id is None:
            # Two processes that create one sqlite file at the same time fail with "duplicate column name".
            with disk_errors(self.runs), locked(self.runs / ".tracking-open.lock"):
                self._experiment_id = self._experiment()
        return self._experiment_id

    def _experiment(self) -> str:
        with self.answers() as client:
            try:
                with self.answers():
                    found = client.get_experiment_by_name(self.experiment)
            except MlflowRefused as e:
                raise MlflowUnreachable(str(e)) from e
            if found is None:
                # A database has no folder for artifacts; MLflow would put them under the current folder.
                local = (self.runs / ARTIFACTS).as_uri() if self.uri.startswith(_DATABASES) else None
                with contextlib.suppress(MlflowRefused), self.answers():  # another job was faster
                    made = client.create_experiment(self.experiment, artifact_location=local)
                    client.set_experiment_tag(made, KIND, MODEL_TRAINING)
                    return str(made)
                found = client.get_experiment_by_name(self.experiment)
        if found is None or found.lifecycle_stage == "deleted":
            back = f"mlflow experiments restore -x {found.experiment_id if found else '…'}"
            raise MlflowRefused(
                f"MLflow at {self.shown}: experiment {self.experiment!r} was deleted; bring it back with "
                f"`MLFLOW_TRACKING_URI={self.shown} {back}`"
            )
        if KIND not in found.tags:
            with contextlib.suppress(TrackingError), self.answers() as client:
                client.set_experiment_tag(found.experiment_id, KIND, MODEL_TRAINING)
        if self.database and self.database.parent == self.runs:
            moved(self.database, found.artifact_location, (self.runs / ARTIFACTS).as_uri())
        return str(found.experiment_id)

    def forget(self) -> None:
        """Look up the experiment again: MLflow may have another database now."""
        self._experiment_id = None


def database(uri: str) -> Path | None:
    """The file of a sqlite URI, or None."""
    found = re.fullmatch(r"sqlite:///(/[^?]*)(\?.*)?", uri)
    return Path(unquote(found[1])) if found else None


def database_uri(path: Path) -> str:
    """The URI of a sqlite file, with any characters in its path: `?` begins a query in a URI, `%20` is a blank."""
    return "sqlite:///" + re.sub(r"\?|%(?=[0-9a-fA-F]{2})", lambda found: quote(found[0]), str(path))


_PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}
"""The columns of MLflow's tables that hold absolute addresses of files."""


def moved(path: Path, old: str, new: str) -> None:
    """Update the addresses in a moved run folder's database, for MLflow's pages; `local` does not need it.

    MLflow has no call for it. Missing tables and columns are skipped.
    """
    if old == new or not old.endswith(f"/{ARTIFACTS}"):
        return
    with contextlib.closing(sqlite3.connect(path, timeout=float(_SHORT), isolation_level=None)) as asked:
        try:
            asked.execute("BEGIN IMMEDIATE")
            for table, columns in _PLACES.items():
                there = {row[1] for row in asked.execute(f"PRAGMA table_info({table})")}
                for column in there & set(columns):
                    asked.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
            asked.execute("COMMIT")
        except sqlite3.OperationalError as e:  # read-only or locked; `local` still works
            log.warning("tracking: MLflow's pages show the files of %s where they were: %s", path, e)


def _connect(uri: str) -> MlflowClient:
    # MLflow's own default, seven retries of 120 s, blocked training for four minutes when its server went down.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault(_TIMEOUT, _SHORT)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # no telemetry from a user's training
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    # MLflow logs each failure with its traceback; ours is one line.
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri)


def _misread(uri: str) -> Path | None:
    """The folder that MLflow creates by taking a sqlite URI literally, if the URI means another one."""
    folder = Path(uri.removeprefix("sqlite:///")).parent
    return folder if (path := database(uri)) and folder != path.parent and not folder.exists() else None


def _reason(error: BaseException) -> str:
    """The informative part of a chained network error."""
    text = str(error) or type(error).__name__
    known = re.search(
        r"\[Errno -?\d+\] ([^'\")\]]+)|(timed out|too many \d+ error responses)"
        r"|(?:ConnectionResetError\(\d+, |RemoteDisconnected\()'([^']+)'",  # the server dies just now
        text,
    )
    return (known[1] or known[2] or known[3]) if known else _first_sentence(text)


def _first_sentence(text: str, most: int = 200) -> str:
    """The first sentence, which has the cause; MLflow's advice about databases after it is dropped."""
    line = text.strip().splitlines()[0]
    line = line.partition(". ")[0].rstrip(".")
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"
