"""What is wrong with a disk, in a line: full, read-only, no rights, broken. And how much of it files take."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from remora.errors import StoreError

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.ENOTDIR: "a part of that path is a file",
    errno.EISDIR: "a folder is where a file belongs",
    errno.EFBIG: "the file system does not allow files of that size",
    errno.ENAMETOOLONG: "the path is too long",
    errno.EIO: "the disk failed to read or write (an I/O error)",
    errno.ESTALE: "the network file system was lost (a stale handle)",
}

ELSEWHERE = "choose another with --runs DIR (or REMORA_RUNS), or with --out where a command has it"


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the error of a full, read-only or broken disk into a StoreError that says what to do.

    safetensors and `shutil` give the errno only in the text of the error, so it is also looked for there.

    Raises:
        StoreError: what is wrong with the disk of `folder`. Any other error is re-raised unchanged.
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
            reason = "the file system cannot hold more files (no free inodes)"
        raise StoreError(f"{folder}: {reason}; free or {ELSEWHERE}") from None


def _number(error: Exception) -> int | None:
    """The errno of an error, or None."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        found = re.search(r"(?:\[Errno |os error )(\d+)", str(error))
        return int(found[1]) if found else None
    return None


def _no_inode(folder: Path) -> bool:
    try:
        disk = os.statvfs(nearest_there(folder))
    except OSError:
        return False
    return disk.f_files > 0 and disk.f_favail == 0 and disk.f_bavail > 0


def nearest_there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


@dataclass(frozen=True)
class DiskUse:
    """Bytes on disk, a file with several names counted once."""

    bytes: int
    frees: int
    """Bytes that deleting it frees: without files that have hard links elsewhere."""


def size_of(paths: Iterable[Path]) -> DiskUse:
    """The size of files and folders together; what vanishes meanwhile counts nothing."""
    files: dict[tuple[int, int], tuple[int, int, int]] = {}
    for file in _files(paths):
        try:
            at = file.lstat()
        except OSError:
            continue
        seen = files[at.st_dev, at.st_ino][2] if (at.st_dev, at.st_ino) in files else 0
        files[at.st_dev, at.st_ino] = (at.st_size, at.st_nlink, seen + 1)
    frees = sum(size for size, links, seen in files.values() if seen >= links)
    return DiskUse(sum(size for size, _, _ in files.values()), frees)


def changed_at(paths: Iterable[Path]) -> float:
    """When something of it was last written, in seconds since 1970."""
    times = [0.0]
    for path in paths:
        for each in (path, *_files([path])):
            try:
                times.append(each.lstat().st_mtime)
            except OSError:
                continue
    return max(times)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            for folder, _, names in os.walk(path):
                yield from (Path(folder, name) for name in names)
        elif path.exists():
            yield path
