"""What is wrong with a disk, in a line: full, read-only, no rights, broken."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
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
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_files > 0 and disk.f_favail == 0 and disk.f_bavail > 0
