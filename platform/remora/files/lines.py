"""Files that only grow: one JSON object a line. One way to add to them, and one to read what a crash left.

A killed process and a full disk leave half a line, at the end or, once somebody has added to it, in the middle; a node
that lost its power leaves zeros. Whoever adds a line ends a torn one first. Whoever reads leaves torn lines out and
counts them, so that nothing is dropped in silence; those before and behind them are kept.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remora.files import disk_errors

Record = dict[str, Any]


@dataclass
class Lines:
    """What a file holds."""

    records: list[Record] = field(default_factory=list)
    torn: int = 0
    """Lines that are no whole record."""
    open: bytes = b""
    """What stands behind the last line break: a line that is being written, or was when its writer died."""


def read(path: Path, first: str, whole: Callable[[Record], bool] = lambda record: True) -> Lines:
    """Every whole record, in order; none where there is no file.

    Args:
        first: The key that every record begins with.
        whole: Whether a record holds what its readers need; one that does not is counted as torn.

    Raises:
        StoreError: it is a folder, or it cannot be read.
    """
    try:
        with disk_errors(path):
            data = path.read_bytes()
    except FileNotFoundError:
        return Lines()
    return parse(data, first, whole)


def parse(data: bytes, first: str, whole: Callable[[Record], bool] = lambda record: True) -> Lines:
    """`read` for bytes."""
    *ended, last = data.split(b"\n")
    found = Lines(open=last)
    for line in ended:
        if (record := _record(line)) and first in record and whole(record):
            found.records.append(record)
        else:
            found.torn += bool(line.strip())
    return found


def _record(piece: bytes) -> Record | None:
    try:
        value: Any = json.loads(piece.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def append(path: Path, records: Iterable[Record], sync: bool = False) -> None:
    """Add records, in one write. With `sync` they are on disk when this returns.

    Raises:
        StoreError: the disk is full or read-only. What was written of a record is taken back, if the disk lets us.
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
            # Another process may have added a line meanwhile: then half of ours stays, and is left out when read.
            if f.seek(0, os.SEEK_END) == end + len(data) - len(rest):
                with contextlib.suppress(OSError):
                    f.truncate(end)
            raise
        if sync:
            os.fsync(f.fileno())


def said(lines: Lines, path: Path) -> str:
    """One line about what was left out, for people; empty if nothing was."""
    torn = lines.torn + bool(lines.open)
    pieces = f"{torn} torn lines are" if torn > 1 else "1 torn line is"
    return f"{path}: {pieces} left out (a crash or a full disk)" if torn else ""
