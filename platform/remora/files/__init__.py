"""Files that are whole or not there: atomic writes, folders with a manifest of digests, content digests.

A published folder is written beside its place, synced, given a `manifest.json` with the sha256 of every file, and
renamed. Whoever reads it later checks the digests, so a torn, truncated or edited folder is refused by name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
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


REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.ENOTDIR: "a part of that path is a file",
    errno.EISDIR: "a folder stands where a file belongs",
    errno.EFBIG: "the file system takes no file of that size",
    errno.ENAMETOOLONG: "the path is too long",
    errno.EIO: "the disk does not read or write (an I/O error)",
    errno.ESTALE: "the network file system was lost (a stale handle)",
}

ELSEWHERE = "choose another with --runs DIR (or REMORA_RUNS), or with --out where a command has it"


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full, read-only or broken disk into one line that says what to do, whoever met it.

    safetensors and `shutil` hide the number of an error in their text; it is found there.

    Raises:
        StoreError: what is wrong with the disk that holds `folder`; any other error passes as it is.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as e:
        number = _number(e)
        if number not in REASONS:
            raise
        reason = REASONS[number]
        if number == errno.ENOSPC and _no_inode(folder):
            reason = "the file system holds as many files as it can (no inode is free)"
        raise StoreError(f"{folder}: {reason}; free or {ELSEWHERE}") from None


def _number(error: Exception) -> int | None:
    """The system's number of an error."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        found = re.search(r"(?:\[Errno |os error )(\d+)", str(error))
        return int(found[1]) if found else None
    return None


def _no_inode(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_files > 0 and disk.f_favail == 0 and disk.f_bavail > 0


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by a file holding `text`; a reader sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with tmp.open("w") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        tmp.replace(path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


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
def scratch(final: Path) -> Iterator[Path]:
    """A fresh folder beside `final`, `.<name>.<8 hex digits>`, that is gone when the block ends, unless it was renamed.

    It is locked while its writer lives, so that `sweep` can tell what a killed one left. That is swept here, too.
    """
    with disk_errors(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        sweep(final.parent, final.name)
        while True:
            tmp = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
            tmp.mkdir()
            fd = os.open(tmp, os.O_RDONLY)
            if _lock(fd) is not False and tmp.exists():
                break  # else a sweep came between the two
            os.close(fd)
    try:
        with disk_errors(final.parent):  # asks what is full before the folder is removed again
            yield tmp
    finally:
        if tmp.exists():
            shutil.rmtree(tmp, ignore_errors=True)
        os.close(fd)


def _lock(fd: int) -> bool | None:
    """Whether the lock was taken; None on a file system that has none (for folders: NFS)."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


LEFT = re.compile(r"\.(?P<name>.+?)\.(?P<old>old-)?[0-9a-f]{8}")
"""What a killed writer leaves is named so: what it wrote, or the old one that it was about to replace."""
DAY = 86400.0


def left_over(parent: Path, name: str | None = None) -> Iterator[Path]:
    """What killed writers left directly below `parent`, of the one name or of all.

    A folder whose writer lives is locked; a file, and a folder where there are no locks, is left over after a day.
    """
    for path in sorted(parent.glob(f".{glob.escape(name)}.*" if name else ".*")):
        found = LEFT.fullmatch(path.name)
        if not found or name not in (None, found["name"]):
            continue
        with contextlib.suppress(OSError):  # somebody else sweeps here
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                free = _lock(fd) if path.is_dir() else None
                if free or (free is None and time.time() - path.stat().st_mtime > DAY):
                    yield path
            finally:
                os.close(fd)


def sweep(parent: Path, name: str | None = None) -> None:
    """Delete what `left_over` finds; an old one whose place is empty goes back there."""
    for path in left_over(parent, name):
        found = LEFT.fullmatch(path.name)
        assert found
        if found["old"] and not (final := parent / found["name"]).exists():
            path.rename(final)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def publishing(final: Path) -> Iterator[Path]:
    """A fresh folder to fill; when the block ends it is synced, given its manifest and renamed to `final`.

    If the block raises, nothing is published and the folder is removed. An existing `final` is replaced.
    """
    with scratch(final) as tmp:
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


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder with all that is in it. Where the file system can, both are one file (a hard link).

    For files that nobody changes any more: those of published folders.
    """
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)
    else:
        _link(str(source), str(target))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        if not Path(source).samefile(target):
            Path(target).unlink()  # written anew: a link must not change what else it is a name of
            _link(source, target)
    except OSError:  # another disk, or one without links; a full disk is met again by the copy
        shutil.copy2(source, target)


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
                    waiting(path.read_text(errors="replace").strip() or "another process")
                    told = True
                time.sleep(POLL)
        with contextlib.suppress(OSError):  # on a full disk nobody is told who it is
            os.ftruncate(f.fileno(), 0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            os.write(f.fileno(), f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode())
        yield True


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock file `path`. One that cannot be asked, for its rights or on a file system
    without locks, is taken for held: nothing is deleted or taken for killed by mistake."""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not _lock(fd)
    finally:
        os.close(fd)


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
