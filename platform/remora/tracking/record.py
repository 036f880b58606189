"""What MLflow shall hold of each run, kept in the run folder: `tracking/<kind>-<digest of its key>.json`.

    with Run(runs, key=f"variant/{identity}", name="share-Sig-Phi", parent="search/…", params={"lr": 1e-3}) as run:
        run.note(metrics={"gqa/accuracy": 0.62}, files={"benchmarks/gqa": folder})

Whoever trains or measures writes these files, loads no MLflow and waits for no server; `sync` makes MLflow agree with
them. A record says what is, not what was called, so it may be written to any MLflow any number of times. Steps are not
repeated in it: they stand in the journal of the stage run that it names.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic import TypeAdapter

from remora.errors import StoreError
from remora.files import digest, disk_errors, is_held, write_json
from remora.tracking import metric_names
from remora.tracking.locks import held, locked
from remora.tracking.metric_names import Input

log = logging.getLogger(__name__)
FOLDER = "tracking"
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass
class Claim:
    """A folder that shall be a version of a registered model, and the alias that was to point at it from then on."""

    model: str
    folder: str
    digest: str
    """Of its content: the same content is one version."""
    alias: str | None
    at: int
    tags: dict[str, str]

    def same(self, other: Claim) -> bool:
        return (self.model, self.digest, self.alias) == (other.model, other.digest, other.alias)


@dataclass
class Record:
    """One run of MLflow's. Times are milliseconds since 1970; folders below the run folder are relative to it."""

    key: str
    """Its logical identity: one key, one run, through restarts of the training and of the server."""
    name: str
    parent: str | None
    """The key of the run that it is shown under."""
    began: int
    ended: int | None = None
    status: Status = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    """Texts may hold links to runs by their keys (`figures.link`)."""
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Each with its time."""
    inputs: list[dict[str, Any]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Artifact path -> the folder whose files it holds, and when they were written."""
    stage: str | None = None
    """The folder of the stage run whose journal has this run's steps."""
    claims: list[Claim] = field(default_factory=list)


_RECORD = TypeAdapter(Record)


def read_record(file: Path) -> Record:
    """Raises:
    OSError, ValueError: the file is not there, or was spoilt.
    """
    return _RECORD.validate_json(file.read_bytes())


def file_of(runs: Path, key: str) -> Path:
    return runs / FOLDER / f"{key.partition('/')[0]}-{digest(key)[:16]}.json"


def lives(runs: Path, key: str) -> bool:
    """Whether the process that works at the run lives."""
    return is_held(_lock(file_of(runs, key)))


def _lock(file: Path) -> Path:
    return file.with_suffix(".lock")


class Run:
    """A run that is worked at while the block lasts: FINISHED if it ends well, else FAILED, or KILLED by Ctrl-C.

    A key that was worked at before is taken up again: what is given anew replaces what was there. No method raises
    for the record's sake: what cannot be written on a full disk is logged and left out.

    Args:
        runs: The run folder.
        params: Settings, nested as they come.
        stage: The name of the stage run that it is of, if it is one's.
    """

    def __init__(
        self,
        runs: Path,
        *,
        key: str,
        name: str,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        inputs: Iterable[Input] = (),
        texts: Mapping[str, str] | None = None,
        stage: str | None = None,
    ) -> None:
        self.runs, self.key = Path(runs).resolve(), key
        self._file = file_of(self.runs, key)
        self._bare = Record(key, name, parent, _now(), stage=stage and f"stages/{stage}")
        self._given = {
            "tags": {"remora.kind": key.partition("/")[0]} | _source() | dict(tags or {}),
            "params": metric_names.params(params or {}),
            "inputs": [asdict(i) for i in inputs],
            "texts": dict(texts or {}),
        }
        self._held = contextlib.ExitStack()

    @classmethod
    def again(cls, runs: Path, key: str) -> Run:
        """A run that is recorded already, to add to it."""
        run = cls(runs, key=key, name=key)
        run._bare.status, run._bare.ended = "FINISHED", _now()
        return run

    def __enter__(self) -> Run:
        with self._unhurt():
            self._held.enter_context(held(_lock(self._file)))
        self._change(**self._given, status="RUNNING", ended=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = "FINISHED" if error is None else "FAILED" if isinstance(error, Exception) else "KILLED"
        self._change(status=ended, ended=_now())
        self._held.close()

    def keep(self) -> None:
        """Record a run whose work is over; one that is recorded already is left alone."""
        if not self._file.exists():
            self._change(**self._given, status="FINISHED", ended=_now())

    def note(
        self,
        *,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, Any] | None = None,
        inputs: Iterable[Input] = (),
        texts: Mapping[str, str] | None = None,
        files: Mapping[str, Path] | None = None,
    ) -> None:
        """Add to the record; what has the same name is replaced.

        Args:
            metrics: Nested dicts give dotted names; what is not a number is left out.
            texts: Artifact path -> its text.
            files: Artifact path -> a folder whose files become artifacts below it.
        """
        now = _now()
        self._change(
            tags=dict(tags or {}),
            metrics={name: (value, now) for name, value in metric_names.metrics(metrics or {}).items()},
            inputs=[asdict(i) for i in inputs],
            texts=dict(texts or {}),
            files={path: (within(self.runs, folder), now) for path, folder in (files or {}).items()},
        )

    def claim(self, claim: Claim) -> None:
        """Ask for a version of a registered model; see `registry.register`."""
        self._change(claims=lambda claims: [*(c for c in claims if not c.same(claim)), claim])

    def withdraw(self, claim: Claim) -> None:
        """Take a claim back that MLflow refused."""
        self._change(claims=lambda claims: [c for c in claims if not c.same(claim)])

    def _change(self, **changes: Any) -> None:
        with self._unhurt(), locked(self._file.parent / ".lock"):
            write_json(self._file, asdict(self._merged(changes)))

    def _merged(self, changes: dict[str, Any]) -> Record:
        try:
            record = read_record(self._file)
        except (OSError, ValueError):  # none yet, or one that was spoilt
            record = self._bare
        for name, value in changes.items():
            old = getattr(record, name)
            if isinstance(old, dict):
                old |= value
            elif name == "inputs":
                record.inputs = _each_once(old + value)
            elif name == "claims":
                record.claims = value(old)
            else:
                setattr(record, name, value)
        return record

    @contextlib.contextmanager
    def _unhurt(self) -> Iterator[None]:
        try:
            with disk_errors(self.runs):
                yield
        except (OSError, StoreError) as e:
            log.error("tracking: what happened in %s cannot be recorded: %s", self.key, e)


def _each_once(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({(i["name"], i["digest"], i["context"]): i for i in inputs}.values())


def within(runs: Path, folder: Path) -> str:
    """A folder's path, relative to the run folder if it lies in it: that may be moved."""
    folder = Path(folder).resolve()
    return str(folder.relative_to(runs) if folder.is_relative_to(runs) else folder)


def _source() -> dict[str, str]:
    """What MLflow's list of runs shows in its columns."""
    said = {"mlflow.source.type": "LOCAL", "mlflow.source.name": "remora"}
    with contextlib.suppress(OSError, KeyError):  # a container's user without a name
        said["mlflow.user"] = getpass.getuser()
    return said


def _now() -> int:
    return int(time.time() * 1000)
