"""Atomic files and folders: a reader sees the whole of one or nothing. Also content digests and file locks.

A published folder is written beside its final place, synced, given a `manifest.json` with the sha256 of every file, and
renamed. Readers check the digests, so a torn, truncated or edited folder is refused by name.
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
from functools import lru_cache
from pathlib import Path
from typing import TextIO

from remora.errors import StoreError, TornArtifact
from remora.files.disk import disk_errors

MANIFEST = "manifest.json"


def sha256_file(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest(value: object) -> str:
    """sha256 of a JSON-able value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_object(file: Path) -> dict[str, object]:
    """A file's JSON object; an empty one if the file is missing or holds something else."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def strings_in(value: object) -> Iterator[str]:
    """Every string among the values of parsed JSON or YAML, at any depth; keys are left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_in(inner)


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by a file with `text`. Readers see the old or the new file, never a part."""
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


def write_json(path: Path, value: object) -> None:
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
    """A fresh folder beside `final`, `.<name>.<8 hex digits>`, deleted when the block ends unless it was renamed.

    It is locked while its writer lives, so that `sweep` can recognise what a killed writer left. This also sweeps.
    """
    with disk_errors(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        sweep(final.parent, final.name)
        while True:
            tmp = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
            tmp.mkdir()
            fd = os.open(tmp, os.O_RDONLY)
            if _lock(fd) is not False and tmp.exists():
                break  # else a sweep deleted it before we held the lock
            os.close(fd)
    try:
        with disk_errors(final.parent):  # checks for a full disk before the folder is deleted
            yield tmp
    finally:
        if tmp.exists():
            shutil.rmtree(tmp, ignore_errors=True)
        os.close(fd)


def discard(folder: Path) -> None:
    """Delete a folder that readers know: it is gone at once or not at all. It is no error if it is gone already."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        _lock(fd)  # a sweep leaves it alone
        away = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
        folder.rename(away)
        shutil.rmtree(away)
    finally:
        os.close(fd)


def _lock(fd: int) -> bool | None:
    """Whether the lock was taken; None if the file system has no locks (for folders: NFS)."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


LEFT = re.compile(r"\.(?P<name>.+?)\.(?P<old>old-)?[0-9a-f]{8}")
"""Names of what a killed writer leaves: its unfinished output, or the old version that it was replacing."""
DAY = 86400.0


def left_over(parent: Path, name: str | None = None) -> Iterator[Path]:
    """What killed writers left directly below `parent`, for one name or all.

    A folder is left over if nobody holds its lock. A file, or a folder on a file system without locks, is left over
    after a day.
    """
    for path in sorted(parent.glob(f".{glob.escape(name)}.*" if name else ".*")):
        found = LEFT.fullmatch(path.name)
        if not found or name not in (None, found["name"]):
            continue
        with contextlib.suppress(OSError):  # another process is sweeping
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                free = _lock(fd) if path.is_dir() else None
                if free or (free is None and time.time() - path.stat().st_mtime > DAY):
                    yield path
            finally:
                os.close(fd)


def sweep(parent: Path, name: str | None = None) -> None:
    """Delete what `left_over` finds. An old version whose replacement never arrived is moved back."""
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
    """A fresh folder to fill. When the block ends, it is synced, given its manifest and renamed to `final`.

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
    """Copy a file or a whole folder, by hard links where the file system supports them.

    Only for files that are never changed again, such as those of published folders.
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
            Path(target).unlink()  # it may be a hard link: overwriting would change the other file
            _link(source, target)
    except OSError:  # another disk, or no hard links; if the disk is full, the copy fails too
        shutil.copy2(source, target)


POLL = 0.5
"""Seconds between two attempts to take a lock that another process holds."""


@contextlib.contextmanager
def exclusive(
    path: Path, waiting: Callable[[str], None] = lambda holder: None, enough: Callable[[], bool] = lambda: False
) -> Iterator[bool]:
    """Hold the lock file `path` during the block; yields True. The operating system releases it when the process ends.

    While another process holds it, `waiting` is called once with what the holder wrote about itself. If `enough()`
    becomes true, the wait ends and this yields False.
    """
    told, again = False, 5  # a file system that gives a file a new inode number at each look would take more, for ever
    with contextlib.ExitStack() as opened:
        f = opened.enter_context(_lock_file(path))
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(path, f.fileno()) or not again:
                    break
                again -= 1
                opened.close()  # its last holder deleted it: a process that comes later would lock another file
                f = opened.enter_context(_lock_file(path))
            except BlockingIOError:
                if enough():
                    yield False
                    return
                if not told:
                    waiting(path.read_text(errors="replace").strip() or "another process")
                    told = True
                time.sleep(POLL)
        with contextlib.suppress(OSError):  # on a full disk the holder stays anonymous
            os.ftruncate(f.fileno(), 0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            os.write(f.fileno(), f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode())
        yield True


def _lock_file(path: Path) -> TextIO:
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")


def _is_at(path: Path, fd: int) -> bool:
    """Whether an open file is the one of that path."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock file `path`. If that cannot be found out (no permission, no locks on this
    file system), the answer is True, so that nothing in use is deleted or declared killed."""
    try:
        fd = _open_to_lock(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not _lock(fd)
    finally:
        os.close(fd)


def _open_to_lock(path: Path) -> int:
    """Open a lock file; where this process may not write, only to read, and NFS refuses a lock on that."""
    try:
        return os.open(path, os.O_RDWR)
    except OSError as e:
        if e.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(path, os.O_RDONLY)


def is_published(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


MAKE_AGAIN = "delete the folder, it will be made again"
UNREAD = "next: the right to read it, or a disk that works; nothing is known to be wrong with it"


def manifest(folder: Path, advice: str = MAKE_AGAIN) -> dict[str, str]:
    """File to sha256, from a published folder's manifest.

    Raises:
        TornArtifact: the manifest is missing or is not in its format; the message ends with `advice`.
        StoreError: the disk or its rights do not let it be read, which says nothing of the folder.
    """
    try:
        return dict(json.loads((folder / MANIFEST).read_text())["files"])
    except OSError as e:
        if not isinstance(e, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise StoreError(f"{folder / MANIFEST} cannot be read: {e.strerror or e}; {UNREAD}") from None
        raise TornArtifact(f"{folder}: no readable {MANIFEST}; {advice}") from None
    except (ValueError, KeyError, TypeError):
        raise TornArtifact(f"{folder}: no readable {MANIFEST}; {advice}") from None


def known_sha256(path: Path) -> str:
    """`sha256_file`, read once in a process for each path, size and time of change: for files that are looked at again
    and again and never written in place."""
    stat = path.stat()
    return _sha256_of(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _sha256_of(path: Path, inode: int, size: int, changed: int) -> str:
    return sha256_file(path)


def verify(folder: Path, advice: str = MAKE_AGAIN, sha256: Callable[[Path], str] = sha256_file) -> None:
    """Check a published folder against its manifest.

    Args:
        sha256: The digest of a file; `known_sha256` for what is looked at again and again.

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
        elif sha256(folder / name) != files[name]:
            problem = "does not match its sha256"
        else:
            continue
        raise TornArtifact(f"{folder}: {name} {problem}; {advice}")
