"""Files on this machine and at URLs, by one name: an absolute path, or anything that fsspec opens (s3://, hf://, https://)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urljoin

from remora.files import digest


def is_url(location: str) -> bool:
    return "://" in location


def absolute(location: str | Path) -> str:
    """A path made absolute, a URL as it is; `file://` becomes a path."""
    text = str(location).removeprefix("file://")
    return text if is_url(text) else str(Path(text).expanduser().absolute())


def join(root: str, relative: str) -> str:
    """A file below a folder, both by their locations; a relative name that is one itself stands."""
    if is_url(relative):
        return relative
    return urljoin(root.rstrip("/") + "/", relative) if root.startswith("http") else os.path.join(root, relative)  # noqa: PTH118


def parent(location: str) -> str:
    return location.rstrip("/").rpartition("/")[0] or "/"


@contextmanager
def store_errors(location: str) -> Iterator[None]:
    """One kind of error for all stores: each library (aiohttp, httpx, botocore, …) raises its own.

    Raises:
        OSError: the store cannot be reached or asked, or no library for it is installed.
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
    """The bytes of a file.

    Raises:
        OSError: it is not there (FileNotFoundError) or cannot be read.
    """
    if is_url(location):
        import fsspec  # 0.1 s, and most datasets lie on a disk

        with store_errors(location), fsspec.open(location, "rb") as f:
            yield f
    else:
        with open(location, "rb") as f:  # noqa: PTH123 (a Path for each of a million pictures costs more than opening it)
            yield cast("BinaryIO", f)


def stamp(location: str) -> tuple[int, str]:
    """(bytes, a mark that changes when the file does): its time of change, or a store's own tag.

    Raises:
        OSError: it is not there or cannot be asked.
    """
    if not is_url(location):
        found = os.stat(location)  # noqa: PTH116
        return found.st_size, str(found.st_mtime_ns)
    import fsspec

    with store_errors(location):
        system, path = fsspec.core.url_to_fs(location)
        info = system.info(path)
        # Over HTTP a key of fsspec's is the URL's, whatever lies there; what the server says of it changes with it.
        mark = digest({k: str(v) for k, v in info.items()}) if location.startswith("http") else str(system.ukey(path))
        return int(info.get("size") or 0), mark
