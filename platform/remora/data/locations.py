"""Read local files and URLs by location: an absolute path, or any URL that fsspec opens (s3://, hf://, https://).

Requests to a slow, busy or unreachable store are retried (docs/loading.md).
"""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urljoin

from remora.files import digest

log = logging.getLogger(__name__)
TRIES = 5
PAUSE = 1.0
"""Seconds before the second try, ±50 %. Each later pause is twice as long: 15 s in total."""
TIMEOUT = 20.0
"""Timeout of one try in seconds. Network file systems have their own: reading a file cannot be cancelled."""

BUSY = frozenset({408, 425, 429})
"""HTTP 4xx statuses that are retried, as all 5xx are."""
NETWORK = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH})
"""Errnos that an unreachable network file system gives for existing files."""
_CHANCE = random.SystemRandom()  # its state is neither shared by processes nor seeded

Result = TypeVar("Result")


class StoreUnreachable(OSError):
    """A store cannot be reached, whichever file is asked for. The message has the number of tries."""


def is_url(location: str) -> bool:
    return "://" in location


def absolute(location: str | Path) -> str:
    """An absolute path for a path, an unchanged URL for a URL; `file://` becomes a path."""
    text = str(location).removeprefix("file://")
    return text if is_url(text) else str(Path(text).expanduser().absolute())


def join(root: str, relative: str) -> str:
    """The location of a file below a folder. If `relative` is itself an absolute path or URL, it is returned as is."""
    if is_url(relative):
        return relative
    return urljoin(root.rstrip("/") + "/", relative) if root.startswith("http") else os.path.join(root, relative)  # noqa: PTH118


def relative(root: str, location: str) -> str:
    """What `join` makes the location of again: relative to a local folder that it is in, else as it is."""
    inside = "." if location == root else location.removeprefix(f"{root}/")
    return location if ".." in inside.split("/") else inside


def parent(location: str) -> str:
    return location.rstrip("/").rpartition("/")[0] or "/"


@contextmanager
def store_errors(location: str) -> Iterator[None]:
    """Turn the errors of all store libraries (aiohttp, httpx, botocore, …) into OSErrors.

    Raises:
        OSError: the store cannot be reached or refuses the request, or no library for it is installed.
    """
    try:
        yield
    except Exception as e:
        ours = type(e).__module__.startswith(("builtins", "remora.")) and not isinstance(e, ImportError | ValueError)
        if ours or isinstance(e, OSError):
            raise
        raise OSError(f"{location}: {e or type(e).__name__}") from None


@contextmanager
def opened(location: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes.

    Raises:
        OSError: it does not exist (FileNotFoundError) or cannot be read.
    """
    if is_url(location):
        import fsspec  # takes 0.1 s, and most datasets are local

        with store_errors(location), fsspec.open(location, "rb") as f:
            yield f
    else:
        with open(location, "rb") as f:  # noqa: PTH123 (a Path for each of a million pictures costs more than opening it)
            yield cast("BinaryIO", f)


def read(location: str, offset: int = 0, length: int | None = None) -> bytes:
    """Read a file from `offset`: `length` bytes, or to the end.

    Raises:
        FileNotFoundError: it does not exist.
        StoreUnreachable: its store failed TRIES times, or denies access.
        OSError: it cannot be read, and a retry would not help.
    """

    def local() -> bytes:
        with open(location, "rb") as f:  # noqa: PTH123 (as above)
            f.seek(offset)
            return f.read() if length is None else f.read(length)

    return _tried(location, (lambda: _fetch(location, offset, length)) if is_url(location) else local)


def stamp(location: str) -> tuple[int, str]:
    """(size in bytes, version): the version changes when the file does; it is the mtime or the store's tag.

    Raises:
        OSError: the file does not exist or is inaccessible.
    """
    if not is_url(location):
        found = os.stat(location)  # noqa: PTH116
        return found.st_size, str(found.st_mtime_ns)

    def ask() -> tuple[int, str]:
        system, path = _system(location)
        info = system.info(path)
        # Over HTTP, fsspec's key depends only on the URL; the response headers change with the content.
        mark = digest({k: str(v) for k, v in info.items()}) if location.startswith("http") else str(system.ukey(path))
        return int(info.get("size") or 0), mark

    return _tried(location, ask)


def _tried(location: str, ask: Callable[[], Result]) -> Result:
    """The result of `ask`, retried after transient errors."""
    began = time.monotonic()
    for tries in range(1, TRIES + 1):
        try:
            return ask()
        except Exception as e:
            lasting = _lasting(e, is_url(location))
            if lasting is not None:
                raise lasting from None
            reason = _reason(e)
            if tries == TRIES:
                seconds = time.monotonic() - began
                raise StoreUnreachable(f"after {TRIES} tries in {seconds:.0f} s: {reason}") from e
        pause = PAUSE * 2 ** (tries - 1) * _CHANCE.uniform(0.5, 1.5)
        log.warning("%s: try %d of %d: %s; the next in %.1f s", location, tries, TRIES, reason, pause)
        time.sleep(pause)
    raise AssertionError("unreachable: the last try returns or raises")


def _lasting(error: Exception, url: bool) -> Exception | None:
    """The exception to raise for a permanent error; None for a transient one."""
    if not url:
        return error if getattr(error, "errno", None) not in NETWORK else None
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return FileNotFoundError(errno.ENOENT, _reason(error))
    if isinstance(error, (PermissionError, ImportError)) or status in (401, 403):
        return StoreUnreachable(_reason(error))
    if status is not None and 400 <= status < 500 and status not in BUSY:
        return OSError(_reason(error))
    # Each library has its own network errors, few of them OSErrors; these are never network errors.
    if isinstance(error, (TypeError, ValueError, AttributeError, LookupError, NotImplementedError, IsADirectoryError)):
        return error if isinstance(error, OSError) else OSError(_reason(error))
    return None


def _status(error: Exception) -> int | None:
    """The HTTP status of an error: aiohttp's `status`, or that of requests' and httpx's `response`."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _reason(error: Exception) -> str:
    status = _status(error)
    if status:
        return f"HTTP {status} {getattr(error, 'message', '')}".strip()
    if isinstance(error, TimeoutError) and error.errno is None:
        return f"no answer in {TIMEOUT:g} s"
    text = next(iter(str(error).splitlines()), "")
    return text if isinstance(error, OSError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _system(location: str) -> tuple[Any, str]:
    """The file system of a URL and the path on it.

    fsspec caches one per process and protocol, with its open connections, and makes another in a forked process.
    """
    import fsspec  # 0.1 s, and most datasets lie on a disk

    return fsspec.core.url_to_fs(location)


def _fetch(location: str, offset: int, length: int | None) -> bytes:
    """One try to read a URL, with a timeout of TIMEOUT seconds."""
    import fsspec.asyn

    system, path = _system(location)
    end = None if length is None else offset + length
    span = {"start": offset, "end": end} if offset or length is not None else {}
    if system.async_impl:
        content = fsspec.asyn.sync(system.loop, system._cat_file, path, **span, timeout=TIMEOUT)
    else:
        content = _within(TIMEOUT, lambda: system.cat_file(path, **span))
    if length is None or len(content) == length:
        return content
    if len(content) >= offset + length:  # a web server without range requests sent the whole file
        return content[offset : offset + length]
    raise OSError(f"received {len(content)} of {length} bytes")


def _within(seconds: float, call: Callable[[], bytes]) -> bytes:
    """The result of `call`, with a timeout. A call that hangs is abandoned in its thread."""
    answer: Future[bytes] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as e:  # noqa: BLE001 (raised by `result`)
            answer.set_exception(e)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(seconds)
