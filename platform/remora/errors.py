"""Every error that Remora raises on purpose.

    RemoraError
    ├── SpecError         a YAML file or a value in it
    │   └── UnknownName   a name that the catalog does not hold
    ├── DataError         a dataset, a picture, a question file
    │   ├── OverLength    a conversation of which no round fits
    │   ├── MissingDataset  a dataset whose file is not there
    │   ├── TooLong       a question that leaves the model's context no room for its answer
    │   └── BrokenRecord a picture that is missing or that no decoder reads
    ├── StoreError        the run folder: full, read-only, a lease
    │   └── TornArtifact  files that do not match their manifest
    ├── TrainingError     a stage that cannot run or whose loss is not a number
    ├── ClusterError      Ray: no cluster, no room
    ├── WorkerError       a process that failed of something nobody foresaw
    ├── TrackingError     MLflow: no server, no champion
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
    """A name that the catalog does not hold."""


class DataError(RemoraError):
    """A dataset, a picture or a question file is missing or unreadable."""


class MissingDataset(DataError):
    """A dataset whose file is not there."""


class TooLong(DataError):
    """A prompt, or a prompt with what may follow it, is more than a model holds."""

    def __init__(self, prompt: int, following: int, holds: int) -> None:
        super().__init__(
            f"the prompt has {prompt} tokens and {following} may follow, the model holds {holds}; "
            "shorten the conversation or ask for fewer"
        )
        self.prompt, self.following, self.holds = prompt, following, holds

    def __reduce__(self) -> tuple[type[TooLong], tuple[int, int, int]]:
        return type(self), (self.prompt, self.following, self.holds)


class BrokenRecord(DataError):
    """A record that cannot be read, for what it says or for its picture: `kind` is its problem (docs/data.md), and
    `problem` says it in a list of others, where the message would say what to do once a line."""

    def __init__(self, message: str, kind: str = "corrupt-image", problem: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.problem = problem or message


class StoreError(RemoraError):
    """The run folder cannot be used: full, read-only, or leased by somebody else."""


class TornArtifact(StoreError):
    """Files that do not match the manifest they were published with."""


class TrainingError(RemoraError):
    """A stage that cannot run, or whose loss is not a number."""


class ClusterError(RemoraError):
    """No Ray cluster, or no room on it."""


class WorkerError(RemoraError):
    """A process failed of something nobody foresaw, or was lost; its line names the log that holds the trace."""


class TrackingError(RemoraError):
    """MLflow cannot be reached, or does not hold what was asked for."""


class ServingError(RemoraError):
    """The endpoint could not be deployed or reached."""


def first_line(error: BaseException) -> str:
    """The first line of what another library says, at most 200 characters of it."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint `; did you mean 'x'?` for a misspelt `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
