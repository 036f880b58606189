"""Objects below a URL, by any file system of fsspec that can create one unless it exists.

On S3 that is a PUT with `If-None-Match: *`, which s3fs sends for `mode="create"`. Nothing else is asked of a store but
that a listing has what was written before it. Errors are one line.
"""

from __future__ import annotations

import contextlib
import errno
import re
import time
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from remora.errors import RemoraError, StoreError
from remora.extras import needs

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

OWN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG})
"""Errnos of this node's own disk, which no store reports."""
PATTERN = re.compile(r"[*?\[{]")
"""What fsspec takes for a pattern of names."""
TRIES = 3
"""Attempts to create an object while the store says that another creation of it is going on (HTTP 409)."""


class Objects:
    """The objects below `url`. Keys are relative to it."""

    def __init__(self, url: str) -> None:
        self.url = url

    @cached_property
    def _opened(self) -> tuple[AbstractFileSystem, str]:
        import fsspec  # takes 0.1 s, and most run folders are local

        try:
            with needs("s3"):
                try:
                    system, path = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
                except ImportError as e:
                    raise e.__cause__ if isinstance(e.__cause__, ModuleNotFoundError) else e from None
        except RemoraError:
            raise
        except ImportError as e:
            raise StoreError(f"{self.url}: {e}; install it, or give another run folder with --runs") from None
        except ValueError as e:
            raise StoreError(f"{self.url}: {e}; a run folder is a path or a URL, such as s3://bucket/runs") from None
        return system, path

    def create(self, key: str, data: bytes) -> bool:
        """Create an object; whether this call did. `data` must be unlike any other writer's: a request whose answer was
        lost is sent again, and then finds its own object."""
        system, root = self._opened
        for left in reversed(range(TRIES)):
            try:
                with self._errors():
                    system.pipe_file(f"{root}/{key}", data, mode="create")
                return True
            except FileExistsError:
                return self.read(key) == data
            except _Conflict:
                if not left:
                    raise StoreError(f"{self.url}/{key}: the store keeps refusing to create it (HTTP 409)") from None
        raise AssertionError

    def write(self, key: str, data: bytes) -> None:
        """Write an object, whether it exists or not."""
        system, root = self._opened
        with self._errors():
            system.pipe_file(f"{root}/{key}", data)

    def read(self, key: str) -> bytes | None:
        """The object's content; None if there is none."""
        system, root = self._opened
        try:
            with self._errors():
                return bytes(system.cat_file(f"{root}/{key}"))
        except FileNotFoundError:
            return None

    def names(self, key: str) -> list[str]:
        """The names directly below `key`, sorted; none if nothing is there."""
        system, root = self._opened
        try:
            with self._errors():
                found = system.ls(f"{root}/{key}", detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(name for path in found if (name := path.rstrip("/").rpartition("/")[2]))

    def sizes(self) -> dict[str, int]:
        """The bytes of every object, by its key."""
        system, root = self._opened
        try:
            with self._errors():
                found = system.find(root, detail=True)
        except FileNotFoundError:
            return {}
        return {path.removeprefix(root).lstrip("/"): int(info.get("size") or 0) for path, info in found.items()}

    def age(self, key: str) -> float | None:
        """Seconds since an object was written, as the store says, by this machine's clock; None if it does not."""
        system, root = self._opened
        try:
            with self._errors():
                return time.time() - float(system.modified(f"{root}/{key}").timestamp())
        except (FileNotFoundError, NotImplementedError):
            return None

    def upload(self, file: Path, key: str) -> None:
        system, root = self._opened
        with self._errors():
            system.put_file(str(file), f"{root}/{key}")

    def download(self, key: str, file: Path) -> None:
        """Raises:
        FileNotFoundError: there is no such object.
        """
        system, root = self._opened
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            system.get_file(f"{root}/{key}", str(file))

    def remove(self, key: str) -> None:
        """Delete the object, or everything below it."""
        system, root = self._opened
        place = f"{root}/{key}"
        with contextlib.suppress(FileNotFoundError), self._errors():
            if PATTERN.search(place) is None:
                system.rm(place, recursive=True)
            else:  # `rm` would take the name as a pattern, and delete all that it matches
                for each in system.find(place):
                    system.rm_file(each)

    def check(self) -> None:
        """Raises:
        StoreError: nothing can be written there, or the store overwrites what exists.
        """
        key = f".probe-{uuid.uuid4().hex}"
        first = self.create(key, b"first")
        second = self.create(key, b"second")
        self.remove(key)
        if not first or second:
            raise StoreError(
                f"{self.url}: its store cannot create an object only if there is none (fsspec's mode='create', on S3 "
                "If-None-Match), so two nodes could publish the same; take one that can, or a disk that all nodes see"
            )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the errors of store libraries into lines. What is missing or exists already stays as it is."""
        try:
            yield
        except Exception as e:
            code = _code(e)
            if code == "NoSuchBucket":
                raise StoreError(f"{self.url}: there is no such bucket; create it, or correct --runs") from None
            if code == "ConditionalRequestConflict":
                raise _Conflict from None
            if isinstance(e, RemoraError | FileNotFoundError | FileExistsError) or getattr(e, "errno", None) in OWN:
                raise
            why = next(iter(str(e).splitlines()), "") or type(e).__name__
            if isinstance(e, PermissionError) or "credentials" in type(e).__name__.lower():
                raise StoreError(
                    f"{self.url}: no rights to read and write there ({why}); give credentials that have them, as the "
                    "store's own tools take them (for S3: AWS_PROFILE, AWS_ACCESS_KEY_ID, …)"
                ) from None
            raise StoreError(
                f"{self.url}: the store does not answer as it should ({why}); what is published is kept, the same "
                "command goes on from there"
            ) from None


class _Conflict(Exception):
    """The store was creating the same object for somebody else."""


def _code(error: BaseException) -> str:
    """S3's code of an error, or ""."""
    for each in (error, error.__cause__):
        said = getattr(each, "response", None)
        if isinstance(said, dict) and isinstance(said.get("Error"), dict):
            return str(said["Error"].get("Code", ""))
    return ""
