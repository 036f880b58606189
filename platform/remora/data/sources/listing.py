"""Expand folders, globs and braces to files, locally and at URLs (by fsspec)."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator

from remora.data.locations import is_url, store_errors
from remora.data.sources.base import reading
from remora.errors import DataError, MissingDataset

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_SPLIT = re.compile(r"([A-Za-z][\w.]*?)(?:[-_.]\d.*)?$")
"""`train-00000-of-00012` and `train` belong to the split train."""
SPLITS = ("train", "validation", "valid", "val", "test", "testmini", "dev")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


def is_pattern(location: str) -> bool:
    """Whether a location is a pattern. A file with exactly that name is not; in a URL, `?` begins a query."""
    if not is_url(location) and os.path.lexists(location):
        return False
    return any(c in location for c in ("*[{" if is_url(location) else "*[{?"))


def expand(location: str) -> list[str]:
    """The files of a pattern: globs give existing files, braces without a glob give names as written.

    Raises:
        DataError: nothing matches.
    """
    found = []
    for pattern in _braces(location):
        found += _glob(pattern) if any(c in pattern for c in "*[") or is_pattern(pattern) else [pattern]
    if not found:
        raise MissingDataset(f"missing dataset file: nothing matches {location}")
    return found


def names(folder: str) -> list[str] | None:
    """Names of a folder's entries; None if it is not a folder."""
    if not is_url(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else None  # noqa: PTH112, PTH208
    import fsspec

    with reading(folder), store_errors(folder):
        system, path = fsspec.core.url_to_fs(folder)
        if not system.isdir(path):
            return None
        return sorted(found.rstrip("/").rpartition("/")[2] for found in system.ls(path, detail=False))


def parquet_files(folder: str) -> list[str]:
    """The Parquet files of a Hugging Face dataset's snapshot: those of the split `train`, or of its only split.

    Raises:
        DataError: there are several configurations, or several splits and none is `train`.
    """
    found = [f for f in _glob(f"{folder.rstrip('/')}/**/*.parquet") if "/." not in f[len(folder) :]]
    splits: dict[str, list[str]] = defaultdict(list)
    for file in found:
        stem = file.rpartition("/")[2].removesuffix(".parquet")
        named = _SPLIT.match(stem)
        above = file.rpartition("/")[0].rpartition("/")[2]  # default/train/0000.parquet
        split = named[1] if named and named[1] in SPLITS else above if above in SPLITS else ""
        splits[split].append(file)
    chosen = splits.get("train") or found
    if "train" not in splits and len(splits) > 1:
        known = ", ".join(sorted(s or "(none)" for s in splits))
        raise DataError(
            f"dataset {folder} has the splits {known} and no train; name one: {folder}/**/<split>-*.parquet"
        )
    places = sorted({file.rpartition("/")[0] for file in chosen})
    if len(places) > 1:
        first = ", ".join(place[len(folder) :].strip("/") or "." for place in places[:8])
        raise DataError(f"dataset {folder} has {len(places)} configurations ({first}); give the folder of one")
    return chosen


def _braces(pattern: str) -> Iterator[str]:
    """Expand `{00000..00012}`, keeping leading zeros, and `{a,b}`."""
    if not (found := _BRACES.search(pattern)):
        yield pattern
        return
    low, high, words = found.groups()
    for word in words.split(",") if words else (str(i).zfill(len(low)) for i in range(int(low), int(high) + 1)):
        yield from _braces(pattern[: found.start()] + word + pattern[found.end() :])


def _glob(pattern: str) -> list[str]:
    import fsspec

    with reading(pattern), store_errors(pattern):
        system, path = fsspec.core.url_to_fs(pattern)
        found = sorted(system.glob(path))
    if not pattern.rpartition("/")[2].startswith("."):  # like a shell: macOS leaves a ._x.tar beside each x.tar
        found = [f for f in found if not f.rpartition("/")[2].startswith(".")]
    # Stores return names without the protocol; having fsspec add it costs a request per name (hf://).
    protocol = pattern.partition("://")[0]
    return [f if is_url(f) or not is_url(pattern) else f"{protocol}://{f.lstrip('/')}" for f in found]
