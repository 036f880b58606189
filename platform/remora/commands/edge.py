"""Where exceptions end: whatever is raised in a command becomes one line, and the trace goes where it is asked for.

    remora: the rule that was broken, the value; the next command
    remora: unexpected TypeError: …; the trace is in ~/remora/logs/error-20261129-201500-4711.log

A RemoraError says all of it. What Ray raises for another process is told as that process met it. Nobody foresaw the
rest: its trace is kept in a file. `--debug` (or REMORA_DEBUG=1) prints every trace.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from remora import __version__
from remora.errors import RemoraError

DEBUG = "REMORA_DEBUG"
LONGEST = 600
"""Characters of somebody else's message that a line holds."""
DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""Errors of the system that are a person's to mend, wherever they are met."""
LOST = {
    "OutOfMemoryError": "a worker was stopped because the machine ran out of memory; take fewer workers or a smaller "
    "cluster.micro_batch",
    "WorkerCrashedError": "a worker process died",
    "ActorDiedError": "a worker process died",
    "ActorUnavailableError": "a worker process does not answer",
    "RayActorError": "a worker process died",
    "NodeDiedError": "a node of the cluster was lost",
    "OwnerDiedError": "a worker process died",
    "ObjectLostError": "what a worker had made was lost with its node",
    "LocalRayletDiedError": "Ray's own process on this machine (raylet) died",
    "GcsConnectFailureException": "Ray's head process does not answer",
    "RpcError": "Ray's head process does not answer",
    "RaySystemError": "Ray failed",
    "GetTimeoutError": "Ray did not answer in time",
    "TrainingFailedError": "training failed",
    "ControllerError": "training failed",
}
"""Ray's exceptions by the name of their class: ray is not loaded here."""


def told(error: BaseException, argv: list[str], runs: Path) -> str:
    """What `remora` prints of an error before it exits with 1."""
    if debugging():
        traceback.print_exception(error, file=sys.stderr)
    error = _met(error)
    if isinstance(error, RemoraError):
        lines = str(error).splitlines() or [type(error).__name__]
    elif isinstance(error, OSError) and error.errno in DISK and error.filename is not None:
        lines = [f"{_line(error)}; next: give another place, or the right to use this one"]
    else:
        lines = [f"{_line(error)} (trace: {_kept(error, argv, runs)}; or run it with --debug)"]
    return "\n".join(f"remora: {line}" for line in lines)


def debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def _met(error: BaseException) -> BaseException:
    """The error as the process met it where it happened: Ray wraps it, once for every process on the way."""
    seen = {id(error)}
    while _is_rays(error):
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException) or id(inner) in seen:
            break
        error = inner
        seen.add(id(error))
    return error


def _is_rays(error: BaseException) -> bool:
    return any(c.__module__.split(".")[0] == "ray" for c in type(error).__mro__)


def _line(error: BaseException) -> str:
    if _is_rays(error):
        what = next((LOST[c.__name__] for c in type(error).__mro__ if c.__name__ in LOST), None)
        return (
            f"{what or f'Ray: {type(error).__name__}'}: {_short(error)}; "
            "what was finished is kept; next: run the same command again"
        )
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"unexpected {type(error).__name__}: {_short(error)}; this is a fault of Remora"


def _short(error: BaseException) -> str:
    """An error's message on one line, without the trace that some hold."""
    kept: Iterator[str] = (line.strip() for line in str(error).splitlines())
    text = " ".join(line for line in kept if line and not line.startswith(("Traceback", "File ", "^")))
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def _kept(error: BaseException, argv: list[str], runs: Path) -> str:
    """The file that the trace was written to: below the run folder if there is one, else a temporary one."""
    command = " ".join(["remora", *argv])
    trace = f"{command}\nremora {__version__}, Python {sys.version.split()[0]}\n\n" + "".join(
        traceback.format_exception(error)
    )
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (runs / "logs", Path(tempfile.gettempdir())):
        if not folder.parent.is_dir():
            continue  # a mistyped --runs makes no folder
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(trace)
            return str(folder / name)
    return "no place to write it"
