"""How an error gets from one process to another, whatever lies between: a pickle, a trace, a log, a row of a table.

    with carried(runs / "logs"):          # in the process that works: whatever it raises becomes a Carried
        ...
    raise ours(error, runs / "logs")      # in the one that waits for it, which may know it only as text: unpack(text)

A RemoraError arrives as itself. Anything else arrives as a WorkerError of one line; its traceback is in a file of the
run folder's logs/, which every node sees, and the line names that file.
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
"""Characters of somebody else's message that a line holds."""
DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""Errors of the system that a person can mend, wherever they happen."""
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


class Carried(Exception):
    """An error on its way: its text is the error's line for people, and below it the error itself for `unpack`.

    It is no RemoraError: what Ray makes of an exception is of its class too, and would be taken for one.
    """

    @classmethod
    def of(cls, error: RemoraError) -> Carried:
        return cls(f"{error}\n{pack(error)}")


def pack(error: RemoraError) -> str:
    """The error as one word, which no channel breaks or escapes."""
    known = next(c.__name__ for c in type(error).__mro__ if getattr(errors, c.__name__, None) is c)
    fields = {k: v for k, v in vars(error).items() if isinstance(v, str | int | float)}
    content = base64.urlsafe_b64encode(json.dumps([known, str(error), fields]).encode()).decode()
    return f"remora-error:{content};"


@contextlib.contextmanager
def carried(logs: Path) -> Iterator[None]:
    """Let what the block raises leave this process as a `Carried`."""
    try:
        yield
    except Exception as e:  # noqa: BLE001 (whatever it is, another process waits for it)
        raise Carried.of(ours(e, logs)) from None


def unpack(*texts: str) -> RemoraError | None:
    """The error that texts hold, one that a person can act on before one that nobody foresaw: where one of several
    workers fails, the others lose their neighbour."""
    found = [_read(content) for text in texts for content in re.findall(r"remora-error:([\w=-]+);", text)]
    return next((e for e in found if not isinstance(e, WorkerError)), found[0] if found else None)


def _read(content: str) -> RemoraError:
    known, text, fields = json.loads(base64.urlsafe_b64decode(content))
    cls: type[RemoraError] = getattr(errors, known)
    made = cls.__new__(cls, text)  # some take more than their text
    vars(made).update(fields)
    return made


def arrived(error: BaseException) -> RemoraError | None:
    """The error of ours that another process met, or None: Ray wraps it, once for every process on the way."""
    met = list(_within(error))
    own = next((e for e in met if isinstance(e, RemoraError) and not _is_rays(e)), None)
    return own or (unpack(*map(str, met)) if isinstance(error, Carried) or _is_rays(error) else None)


def ours(error: BaseException, logs: Path, command: str = "") -> RemoraError:
    """Any error as one of ours; the trace of one that nobody foresaw is kept in a file of `logs`, below the command."""
    if found := arrived(error):
        return found
    *_, error = _within(error)
    if isinstance(error, OSError) and error.errno in DISK and error.filename is not None:
        return StoreError(f"{_line(error)}; next: give another place, or the right to use this one")
    return WorkerError(f"{_line(error)} (trace: {_kept(error, logs, command)})")


def _within(error: BaseException) -> Iterator[BaseException]:
    """An error of Ray's and all that it was made of, outermost first; any other is itself."""
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
    """An error's message on one line, without the trace that some hold."""
    kept: Iterator[str] = (line.strip() for line in str(error).splitlines())
    text = " ".join(line for line in kept if line and not line.startswith(("Traceback", "File ", "^")))
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def _kept(error: BaseException, logs: Path, command: str) -> str:
    """The file that the trace was written to: in `logs` if the run folder is there, else a temporary one."""
    about = f"{command or ' '.join(sys.argv)}\nremora {__version__}, Python {sys.version.split()[0]}\n\n"
    trace = about + "".join(traceback.format_exception(error))
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{socket.gethostname()}-{os.getpid()}.log"
    for folder in (logs, Path(tempfile.gettempdir())):
        if not folder.parent.is_dir():
            continue  # a mistyped --runs makes no folder
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(trace)
            return str(folder / name)
    return "no place to write it"
