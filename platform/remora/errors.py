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
    """A YAML file, or a value in it, breaks a rule.

    Open the file at the line that the message names; the nearest known key, or what is allowed, is in the message.
    `remora render SPEC` prints what a spec resolves to.
    """


class UnknownName(SpecError):
    """A name that is not in the catalog.

    A misspelt name, or an entry of your own whose folder REMORA_CATALOG does not name. `remora catalog KIND` lists the
    known ones.
    """


class DataError(RemoraError):
    """A dataset, a picture or a question file is missing or unreadable.

    `remora data check` finds every problem of a dataset at once; what is missing is named with the command that makes
    it.
    """


class MissingDataset(DataError):
    """A dataset whose file does not exist.

    The file was moved, or never made: the message ends with the command that makes or downloads it. A relative path is
    looked up beside the spec, then in the working folder.
    """


class TooLong(DataError):
    """A prompt, or a prompt and its answer, does not fit the model's context.

    Ask for fewer tokens (`max_tokens`), begin the conversation anew, or show fewer pictures: each takes as many tokens
    as the encoder gives.
    """

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

    Repair the record, or let the mixture skip its kind: `skip: [corrupt-image]`.
    """

    def __init__(self, message: str, kind: str = "corrupt-image", problem: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.problem = problem or message


class StoreError(RemoraError):
    """The run folder cannot be used: full, read-only, or leased by another process.

    Full: free space and give the same command again. Leased: another command trains the same stage run; wait for it, or
    stop it. Read-only: choose another folder with `--runs`.
    """


class TornArtifact(StoreError):
    """Files that do not match the manifest they were published with.

    A disk or a copy damaged it, or somebody edited it. A checkpoint is left out and the one before it is used; a stage
    run is trained again; copy a bundle again, or export it anew.
    """


class TrainingError(RemoraError):
    """A stage that cannot run, or whose loss is NaN.

    NaN or a spike: lower `lr`, set `clip: 1.0`, or `guard: {bad: skip}`. Out of memory: the message names settings that
    were tried and fit.
    """


class Paused(RemoraError):
    """A stage that was asked to stop and did, with a checkpoint: `step` is the next one that it takes.

    Nothing is wrong. The same command goes on from there.
    """

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step

    def __reduce__(self) -> tuple[type[Paused], tuple[str, int]]:
        return type(self), (str(self), self.step)


class ClusterError(RemoraError):
    """No Ray cluster, or no room on it.

    Ask for less (`workers`, `cpus_per_worker`, `gpus_per_worker`), add nodes, or give the address of a cluster that
    runs: `ray status` shows its room.
    """


class WorkerError(RemoraError):
    """A process crashed unexpectedly or was lost. The message names the log file with the traceback.

    Read the log that it names: its last lines say what happened. A process that ended by SIGKILL most often ran out
    of memory. The same command goes on from the last checkpoint.
    """


class TrackingError(RemoraError):
    """MLflow cannot be reached, or does not have what was asked for.

    Training does not stop for it. Start MLflow, or unset MLFLOW_TRACKING_URI for the run folder's own database, then
    `remora sync`.
    """


class MissingVersion(TrackingError):
    """MLflow answers, and has no such model, version or alias."""


class GateError(RemoraError):
    """A model may not take another's place: it is significantly worse, or was not measured as that one was.

    `remora compare` shows the differences. If a benchmark is missing, the message has the `remora evaluate` to run.
    `remora promote MODEL --force REASON` overrules the gate and is recorded.
    """


class ServingError(RemoraError):
    """The endpoint could not be deployed or reached.

    A port in use: choose another with `--port`. A deployment that failed: `serve status` and the log that the message
    names.
    """


def first_line(error: BaseException) -> str:
    """The first line of another library's error message, cut to 200 characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def several(number: int, noun: str) -> str:
    """`1 variant`, `1,200 variants`."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint `; did you mean 'x'?` for a misspelt `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
