"""Records of MLflow runs, stored in the run folder: `tracking/<kind>-<digest of its key>.json`.

    with Run(runs, key=f"variant/{identity}", name="share-Sig-Phi", parent="search/…", params={"lr": 1e-3}) as run:
        run.note(metrics={"gqa/accuracy": 0.62}, files={"benchmarks/gqa": folder})

Training and evaluation write these files, load no MLflow and wait for no server; `sync` brings MLflow up to date from
them. A record is a state, not a log of calls, so it may be written to any MLflow any number of times. It does not
repeat steps: they are in the journal of the stage run that it names.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from pydantic import TypeAdapter

from remora.errors import Paused, StoreError
from remora.files import digest, disk_errors, is_held, write_json
from remora.processes import user_name
from remora.tracking import metric_names
from remora.tracking.locks import held, locked
from remora.tracking.metric_names import Input

log = logging.getLogger(__name__)
FOLDER = "tracking"
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass
class Claim:
    """A request to make a folder a version of a registered model and to point an alias at it."""

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
class RunModel:
    """A model that a run made or read. In MLflow it is a LoggedModel that points at the run folder."""

    name: str
    kind: Literal["stage run", "bundle"]
    folder: str
    made: bool
    """By this run; else it was read."""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Record:
    """One MLflow run. Times are milliseconds since 1970; folders below the run folder are relative to it."""

    key: str
    """Its logical identity: one key, one run, through restarts of the training and of the server."""
    name: str
    parent: str | None
    """The key of its parent run."""
    began: int
    ended: int | None = None
    status: Status = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    """Texts may hold links to runs by their keys (`metric_names.link`)."""
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Each with its time."""
    inputs: list[Input] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Artifact path -> the folder whose files it holds, and when they were written."""
    stage: str | None = None
    """The folder of the stage run whose journal has its steps."""
    claims: list[Claim] = field(default_factory=list)
    models: dict[str, RunModel] = field(default_factory=dict)
    """By keys that are of their content: `stage/<identity>`, `bundle/<digest of the weights>`."""


_RECORD = TypeAdapter(Record)


def read_record(file: Path) -> Record:
    """Raises:
    OSError, ValueError: the file is missing or corrupted.
    """
    return _RECORD.validate_json(file.read_bytes())


def file_of(runs: Path, key: str) -> Path:
    return runs / FOLDER / f"{key.partition('/')[0]}-{digest(key)[:16]}.json"


def record_files(runs: Path) -> list[Path]:
    """The files of all records of a run folder."""
    return sorted((runs / FOLDER).glob("*.json"))


def lives(runs: Path, key: str) -> bool:
    """Whether the run's process is alive."""
    return is_held(_lock(file_of(runs, key)))


def _lock(file: Path) -> Path:
    return file.with_suffix(".lock")


class Run:
    """A run for the length of the block: then FINISHED, FAILED, or KILLED by Ctrl-C or because it was asked to stop.

    A key that exists is resumed: new values replace old ones. No method raises because of the record: what cannot be
    written, say on a full disk, is logged and left out.

    Args:
        runs: The run folder.
        params: Settings, may be nested.
        stage: The stage run's name, for the run of a stage run.
    """

    def __init__(
        self,
        runs: Path,
        *,
        key: str,
        name: str,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, object] | None = None,
        inputs: Iterable[Input] = (),
        texts: Mapping[str, str] | None = None,
        stage: str | None = None,
        models: Mapping[str, RunModel] | None = None,
    ) -> None:
        self.runs, self.key = Path(runs).resolve(), key
        self._file = file_of(self.runs, key)
        self._bare = Record(key, name, parent, _now(), stage=stage and f"stages/{stage}")
        self._given = {
            "tags": {"remora.kind": key.partition("/")[0]} | _source() | dict(tags or {}),
            "params": metric_names.params(params or {}),
            "inputs": list(inputs),
            "texts": dict(texts or {}),
            "models": dict(models or {}),
        }
        self._held = contextlib.ExitStack()

    @classmethod
    def again(cls, runs: Path, key: str) -> Run:
        """A run that is already recorded, to add to it."""
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
        failed = isinstance(error, Exception) and not isinstance(error, Paused)
        ended = "FINISHED" if error is None else "FAILED" if failed else "KILLED"
        self._change(status=ended, ended=_now())
        self._held.close()

    def keep(self) -> None:
        """Record a finished run; one that is already recorded is left alone."""
        if not self._file.exists():
            self._change(**self._given, status="FINISHED", ended=_now())

    def note(
        self,
        *,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, object] | None = None,
        inputs: Iterable[Input] = (),
        texts: Mapping[str, str] | None = None,
        files: Mapping[str, Path] | None = None,
        models: Mapping[str, RunModel] | None = None,
    ) -> None:
        """Add to the record; values with the same name are replaced.

        Args:
            metrics: Nested dicts give dotted names; only numbers are kept.
            texts: Artifact path -> its text.
            files: Artifact path -> a folder whose files become artifacts below it.
        """
        now = _now()
        self._change(
            tags=dict(tags or {}),
            metrics={name: (value, now) for name, value in metric_names.metrics(metrics or {}).items()},
            inputs=list(inputs),
            texts=dict(texts or {}),
            files={path: (within(self.runs, folder), now) for path, folder in (files or {}).items()},
            models=dict(models or {}),
        )

    def claim(self, claim: Claim) -> None:
        """Ask for a version of a registered model; see `registry.register`."""
        self._change(lambda claims: [*(c for c in claims if not c.same(claim)), claim])

    def withdraw(self, claim: Claim) -> None:
        """Withdraw a claim that MLflow refused."""
        self._change(lambda claims: [c for c in claims if not c.same(claim)])

    def _change(self, claims: Callable[[list[Claim]], list[Claim]] = list, /, **changes: object) -> None:
        with self._unhurt(), locked(self._file.parent / ".lock"):
            record = self._merged(changes)
            record.claims = claims(record.claims)
            write_json(self._file, asdict(record))

    def _merged(self, changes: dict[str, object]) -> Record:
        try:
            record = read_record(self._file)
        except (OSError, ValueError):  # none yet, or a corrupted one
            record = self._bare
        for name, value in changes.items():
            old = getattr(record, name)
            if isinstance(old, dict) and isinstance(value, dict):
                old |= value
            elif name == "inputs":
                record.inputs = _each_once(old + value)
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


def _each_once(inputs: list[Input]) -> list[Input]:
    return list({(i.name, i.digest, i.context): i for i in inputs}.values())


def within(runs: Path, folder: Path) -> str:
    """A folder's path, relative to the run folder if it is inside: that may be moved."""
    folder = Path(folder).resolve()
    return str(folder.relative_to(runs) if folder.is_relative_to(runs) else folder)


def _source() -> dict[str, str]:
    """The tags that MLflow's list of runs shows in its columns."""
    said = {"mlflow.source.type": "LOCAL", "mlflow.source.name": "remora"}
    if user := user_name():
        said["mlflow.user"] = user
    return said


def _now() -> int:
    return int(time.time() * 1000)
