"""Compare a catalog dataset on disk with what was published: its file, its picture folders, its counts.

check.py would report a missing folder too, but record by record: an hour later and a million times.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from remora.catalog import DatasetEntry


@dataclass(frozen=True)
class Place:
    """A file or folder of a dataset: its path, its state, and whether that is as published."""

    path: Path
    found: str
    good: bool


def layout(entry: DatasetEntry, data: Path) -> Iterator[Place]:
    """The dataset's file, then each of its picture folders; `data` is the folder of the catalog's datasets. Compares
    published digests (a second per gigabyte) and published counts."""
    file = data / entry.path
    yield _file(file, entry.sha256)
    for folder in entry.folders:
        yield _folder(data / entry.images / folder.path, folder.pictures)


def _file(file: Path, sha256: str | None) -> Place:
    if not file.is_file():
        return Place(file, "missing", False)
    size = f"{file.stat().st_size:,} bytes"
    if sha256 is None:
        return Place(file, size, True)
    with file.open("rb") as f:
        same = hashlib.file_digest(f, "sha256").hexdigest() == sha256
    return Place(file, f"{size}, {'its sha256 is' if same else 'NOT'} the published", same)


def _folder(folder: Path, published: int | None) -> Place:
    if not folder.is_dir():
        return Place(folder, "missing", False)
    if published is None:
        with os.scandir(folder) as found:
            empty = next(found, None) is None
        return Place(folder, "empty" if empty else "there", not empty)
    files = sum(len(names) for _, _, names in os.walk(folder, followlinks=True))
    more = "" if files == published else f", {published:,} published"
    return Place(folder, f"{files:,} files{more}", files >= published)


def count_differences(entry: DatasetEntry, records: int, text_only: int, folders: Mapping[str, int]) -> Iterator[str]:
    """Differences between actual and published counts, one line each.

    `folders` maps the folder of the first picture, relative to the dataset's image folder, to a number of records.
    """
    read = Counter(folders)
    pairs = [("records", entry.records, records), ("records without a picture", entry.text_only, text_only)]
    for folder in entry.folders:
        inside = sum(n for name, n in read.items() if _is_below(name, folder.path))
        pairs.append((f"records with pictures of {folder.path}", folder.records, inside))
    for what, published, found in pairs:
        if published is not None and published != found:
            yield f"{what}: {published:,} published, {found:,} read"


def _is_below(name: str, folder: str) -> bool:
    return folder == "." or name == folder or name.startswith(folder + "/")
