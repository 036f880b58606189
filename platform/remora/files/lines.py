"""Append-only files with one JSON object per line: how to add lines, and how to read them after a crash.

A killed process or a full disk leaves half a line, at the end or, after more was appended, in the middle; a power loss
leaves zeros. `append` ends a torn line first. `read` skips torn lines and counts them, and keeps all others.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remora.files import disk_errors

JsonRecord = dict[str, object]


def utc_now() -> str:
    """The time for a line that people read: UTC, as 2026-11-30T04:20:11Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass
class Lines:
    """The content of such a file."""

    records: list[Any] = field(default_factory=list)
    """Each is a dict. Its reader knows the types of the values."""
    torn: int = 0
    """Number of lines that are not a whole record."""
    open: bytes = b""
    """What follows the last line break: a line that is still being written, or whose writer died."""


def read(path: Path, first: str, whole: Callable[[JsonRecord], bool] = lambda record: True) -> Lines:
    """Read every whole record, in order; empty if the file does not exist.

    Args:
        first: The key that every record begins with.
        whole: Whether a record has everything that its readers need; if not, it counts as torn.

    Raises:
        StoreError: `path` is a folder or cannot be read.
    """
    try:
        with disk_errors(path):
            data = path.read_bytes()
    except FileNotFoundError:
        return Lines()
    return parse(data, first, whole)


def parse(data: bytes, first: str, whole: Callable[[JsonRecord], bool] = lambda record: True) -> Lines:
    """`read` for bytes."""
    *ended, last = data.split(b"\n")
    found = Lines(open=last)
    for line in ended:
        if (record := _record(line)) and first in record and whole(record):
            found.records.append(record)
        else:
            found.torn += bool(line.strip())
    return found


class Tail:
    """A file that others append to, read on from where it was read last. The arguments are those of `read`."""

    def __init__(self, path: Path, first: str, whole: Callable[[JsonRecord], bool] = lambda record: True) -> None:
        self.path, self._first, self._whole = path, first, whole
        self._read = 0

    def new(self) -> list[Any]:
        """The whole records that were added since the last call; none if the file does not exist.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            with disk_errors(self.path), self.path.open("rb") as f:
                f.seek(self._read)
                data = f.read()
        except FileNotFoundError:
            return []
        found = parse(data, self._first, self._whole)
        self._read += len(data) - len(found.open)
        return found.records


def _record(piece: bytes) -> JsonRecord | None:
    try:
        value = json.loads(piece.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def append(path: Path, records: Iterable[Mapping[str, object]], sync: bool = False) -> None:
    """Append records in one write. With `sync`, they are on disk when this returns.

    Raises:
        StoreError: the disk is full or read-only. A partly written record is removed again if possible.
    """
    data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    with disk_errors(path), path.open("ab+", buffering=0) as f:
        end = f.seek(0, os.SEEK_END)
        if end:
            f.seek(-1, os.SEEK_END)
            if f.read(1) != b"\n":
                data = b"\n" + data
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[f.write(rest) :]
        except OSError:
            # If another process has appended meanwhile, half of our line stays, and readers skip it.
            if f.seek(0, os.SEEK_END) == end + len(data) - len(rest):
                with contextlib.suppress(OSError):
                    f.truncate(end)
            raise
        if sync:
            os.fsync(f.fileno())


def said(lines: Lines, path: Path) -> str:
    """One line for the user about skipped torn lines; empty if there were none."""
    torn = lines.torn + bool(lines.open)
    pieces = f"{torn} torn lines" if torn > 1 else "1 torn line"
    return f"{path}: skipped {pieces} (a crash or a full disk)" if torn else ""
