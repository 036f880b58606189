"""Every error that Remora raises on purpose.

    RemoraError
    ├── SpecError         a YAML file or a value in it
    │   └── UnknownName   a name that is not in the catalog
    ├── DataError         a dataset, a picture, a question file
    │   ├── OverLength    a conversation whose first round does not fit
    │   ├── MissingDataset  a dataset whose file does not exist
    │   ├── TooLong       a question that leaves no room for its answer in the model's context
    │   └── BrokenRecord  a record or picture that cannot be read
    ├── StoreError        the run folder: full, read-only, a lease
    │   └── TornArtifact  files that do not match their manifest
    ├── TrainingError     a stage that cannot run or whose loss is NaN
    ├── Paused            a stage that stopped at a validation, as it was asked to
    ├── ClusterError      Ray: no cluster, no room
    ├── WorkerError       a process that crashed unexpectedly
    ├── TrackingError     MLflow: no server, no champion
    │   └── MissingVersion  a model, version or alias that the registry does not have
    ├── GateError         a model that may not take another's place
    └── ServingError      the endpoint: a port in use, a deployment that failed

A message is one line: the rule, the offending value, what exists, the next command. `remora` prints it and exits 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RemoraError(Exception):
    """Root of all errors that a person can act on."""


class SpecError(RemoraError):
    """A YAML file, or a value in it, breaks a rule."""


class UnknownName(SpecError):
    """A name that is not in the catalog."""


class DataError(RemoraError):
    """A dataset, a picture or a question file is missing or unreadable."""


class MissingDataset(DataError):
    """A dataset whose file does not exist."""


class TooLong(DataError):
    """A prompt, or a prompt and its answer, does not fit the model's context."""

    def __init__(self, prompt: int, following: int, holds: int) -> None:
        super().__init__(
            f"the prompt has {prompt} tokens and {following} may follow, the model holds {holds}; "
            "shorten the conversation or ask for fewer"
        )
        self.prompt, self.following, self.holds = prompt, following, holds

    def __reduce__(self) -> tuple[type[TooLong], tuple[int, int, int]]:
        return type(self), (self.prompt, self.following, self.holds)


class BrokenRecord(DataError):
    """A record that cannot be read, because of its content or its picture.

    `kind` is the kind of problem (docs/data.md). `problem` is the message without advice, for lists of problems.
    """

    def __init__(self, message: str, kind: str = "corrupt-image", problem: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.problem = problem or message


class StoreError(RemoraError):
    """The run folder cannot be used: full, read-only, or leased by another process."""


class TornArtifact(StoreError):
    """Files that do not match the manifest they were published with."""


class TrainingError(RemoraError):
    """A stage that cannot run, or whose loss is NaN."""


class Paused(RemoraError):
    """A stage that was asked to stop and did, with a checkpoint: `step` is the next one that it takes."""

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step

    def __reduce__(self) -> tuple[type[Paused], tuple[str, int]]:
        return type(self), (str(self), self.step)


class ClusterError(RemoraError):
    """No Ray cluster, or no room on it."""


class WorkerError(RemoraError):
    """A process crashed unexpectedly or was lost. The message names the log file with the traceback."""


class TrackingError(RemoraError):
    """MLflow cannot be reached, or does not have what was asked for."""


class MissingVersion(TrackingError):
    """MLflow answers, and has no such model, version or alias."""


class GateError(RemoraError):
    """A model may not take another's place: it is significantly worse, or was not measured as that one was."""


class ServingError(RemoraError):
    """The endpoint could not be deployed or reached."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error message, cut to 200 characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint `; did you mean 'x'?` for a misspelt `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
