"""Files that are whole or not there: atomic writes, folders with a manifest of digests, content digests.

A published folder is written beside its place, synced, given a `manifest.json` with the sha256 of every file, and
renamed. Whoever reads it later checks the digests, so a torn, truncated or edited folder is refused by name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from remora.errors import StoreError, TornArtifact

MANIFEST = "manifest.json"


def sha256_file(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest(value: Any) -> str:
    """sha256 of a JSON-able value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one line that says what to do."""
    try:
        yield
    except OSError as e:
        reasons = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "no permission to write there",
            errno.EPERM: "no permission to write there",
            errno.ENOTDIR: "a part of that path is a file",
        }
        if e.errno not in reasons:
            raise
        raise StoreError(
            f"run folder {folder}: {reasons[e.errno]}; free or choose another with --runs DIR (or REMORA_RUNS)"
        ) from None


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by a file holding `text`; a reader sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with tmp.open("w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    tmp.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _members(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)


@contextlib.contextmanager
def publishing(final: Path) -> Iterator[Path]:
    """A fresh folder to fill; when the block ends it is synced, given its manifest and renamed to `final`.

    If the block raises, nothing is published and the folder is removed. An existing `final` is replaced.
    """
    with disk_errors(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        tmp = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
        tmp.mkdir()
        try:
            yield tmp
            digests = {str(p.relative_to(tmp)): sha256_file(p) for p in _members(tmp)}
            write_json(tmp / MANIFEST, {"files": digests})
            for p in [*tmp.rglob("*"), tmp]:
                _sync(p)
            if final.exists():
                old = final.with_name(f".{final.name}.old-{uuid.uuid4().hex[:8]}")
                final.rename(old)
                tmp.rename(final)
                shutil.rmtree(old)
            else:
                tmp.rename(final)
            _sync(final.parent)
        except BaseException:
            shutil.rmtree(tmp, ignore_errors=True)
            raise


POLL = 0.5
"""Seconds between two looks at a lock that somebody else holds."""


@contextlib.contextmanager
def exclusive(
    path: Path, waiting: Callable[[str], None] = lambda holder: None, enough: Callable[[], bool] = lambda: False
) -> Iterator[bool]:
    """Hold the lock file `path`: True. The lock is the operating system's, so it ends with its holder.

    While another process holds it: `waiting` is called once with what the holder wrote about itself, and the wait ends
    with False as soon as `enough()`.
    """
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        f = path.open("a+")
    with f:
        told = False
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if enough():
                    yield False
                    return
                if not told:
                    waiting(path.read_text().strip() or "another process")
                    told = True
                time.sleep(POLL)
        f.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        f.write(f"process {os.getpid()} on {socket.gethostname()}, since {since}\n")
        f.flush()
        yield True


def is_published(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


MAKE_AGAIN = "delete the folder, it will be made again"


def manifest(folder: Path, advice: str = MAKE_AGAIN) -> dict[str, str]:
    """File -> sha256, as a published folder's manifest says.

    Raises:
        TornArtifact: there is no readable manifest; `advice` is what to do about it.
    """
    try:
        return dict(json.loads((folder / MANIFEST).read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise TornArtifact(f"{folder}: no readable {MANIFEST}; {advice}") from None


def verify(folder: Path, advice: str = MAKE_AGAIN) -> None:
    """Check a published folder against its manifest.

    Raises:
        TornArtifact: a file is missing, was added or differs; the message names it and ends with `advice`.
    """
    files = manifest(folder, advice)
    have = {str(p.relative_to(folder)) for p in _members(folder)}
    for name in sorted(set(files) | have):
        if name not in have:
            problem = "is missing"
        elif name not in files:
            problem = "is not in the manifest"
        elif sha256_file(folder / name) != files[name]:
            problem = "does not match its sha256"
        else:
            continue
        raise TornArtifact(f"{folder}: {name} {problem}; {advice}")
