"""Carry errors from one process to another, through a pickle, a traceback, a log or a table row.

    with carried(runs / "logs"):          # in the worker: whatever the block raises becomes a Carried
        ...
    raise ours(error, runs / "logs")      # in the parent; unpack(text) if it has only text

A RemoraError arrives as itself. Any other exception arrives as a one-line WorkerError that names the file with its
traceback, in the run folder's logs/, which every node sees.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import re
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from remora import __version__, errors
from remora.errors import RemoraError, StoreError, WorkerError

LONGEST = 600
"""Maximum characters quoted from another library's message."""
DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""System errors that the user can fix."""
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
"""Ray's exceptions by class name, so that ray need not be imported here."""


class Carried(Exception):
    """An error in transit. Its text is the one-line message, followed by the packed error for `unpack`.

    It is not a RemoraError: Ray's wrapper inherits the class of what it wraps and would be mistaken for one.
    """

    @classmethod
    def of(cls, error: RemoraError) -> Carried:
        return cls(f"{error}\n{pack(error)}")


def pack(error: RemoraError) -> str:
    """Encode the error as one word that survives any text channel unchanged."""
    known = next(c.__name__ for c in type(error).__mro__ if getattr(errors, c.__name__, None) is c)
    fields = {k: v for k, v in vars(error).items() if isinstance(v, str | int | float)}
    content = base64.urlsafe_b64encode(json.dumps([known, str(error), fields]).encode()).decode()
    return f"remora-error:{content};"


@contextlib.contextmanager
def carried(logs: Path) -> Iterator[None]:
    """Re-raise any exception of the block as a `Carried`."""
    try:
        yield
    except Exception as e:  # noqa: BLE001 (whatever it is, another process waits for it)
        raise Carried.of(ours(e, logs)) from None


def unpack(*texts: str) -> RemoraError | None:
    """The error packed in any of the texts, or None. Errors the user can act on come before unexpected ones: when one
    worker fails, the others only report that they lost it."""
    found = [_read(content) for text in texts for content in re.findall(r"remora-error:([\w=-]+);", text)]
    return next((e for e in found if not isinstance(e, WorkerError)), found[0] if found else None)


def _read(content: str) -> RemoraError:
    known, text, fields = json.loads(base64.urlsafe_b64decode(content))
    cls: type[RemoraError] = getattr(errors, known)
    made = cls.__new__(cls, text)  # some constructors take more than the text
    vars(made).update(fields)
    return made


def arrived(error: BaseException) -> RemoraError | None:
    """The RemoraError that another process raised, or None. Ray wraps it once for every process on the way."""
    met = list(_within(error))
    own = next((e for e in met if isinstance(e, RemoraError) and not _is_rays(e)), None)
    return own or (unpack(*map(str, met)) if isinstance(error, Carried) or _is_rays(error) else None)


def ours(error: BaseException, logs: Path, command: str = "") -> RemoraError:
    """Turn any error into a RemoraError. An unexpected one's traceback is saved to a file in `logs`, with the
    command."""
    if found := arrived(error):
        return found
    *_, error = _within(error)
    if isinstance(error, OSError) and error.errno in DISK and error.filename is not None:
        return StoreError(f"{_line(error)}; next: give another place, or the right to use this one")
    return WorkerError(f"{_line(error)} (trace: {_kept(error, logs, command)})")


def _within(error: BaseException) -> Iterator[BaseException]:
    """A Ray error and its causes, outermost first; any other error yields only itself."""
    waiting, seen = [error], set[int]()
    while waiting:
        e = waiting.pop(0)
        seen.add(id(e))
        yield e
        if _is_rays(e):
            inner = [getattr(e, "cause", None), e.__cause__, getattr(e, "controller_failure", None)]
            inner += getattr(e, "worker_failures", {}).values()
            waiting += [i for i in inner if isinstance(i, BaseException) and id(i) not in seen]


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
    """An error's message on one line, without any traceback in it."""
    kept: Iterator[str] = (line.strip() for line in str(error).splitlines())
    text = " ".join(line for line in kept if line and not line.startswith(("Traceback", "File ", "^")))
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def _kept(error: BaseException, logs: Path, command: str) -> str:
    """Write the traceback to `logs`, or to a temporary file if the run folder does not exist; returns the path."""
    about = f"{command or ' '.join(sys.argv)}\nremora {__version__}, Python {sys.version.split()[0]}\n\n"
    trace = about + "".join(traceback.format_exception(error))
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{socket.gethostname()}-{os.getpid()}.log"
    for folder in (logs, Path(tempfile.gettempdir())):
        if not folder.parent.is_dir():
            continue  # a mistyped --runs must not create a folder
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(trace)
            return str(folder / name)
    return "no place to write it"
