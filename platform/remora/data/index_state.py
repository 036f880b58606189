"""The state of the files that a dataset's index was built from, by which a change is seen without reading them.

Files in the run folder are known by their place in it, so a run folder can be moved as a whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import numpy as np

from remora.data.conversation import Problem
from remora.data.index import runs_of
from remora.data.locations import join, relative, stamp
from remora.errors import DataError, MissingDataset
from remora.versions import INDEX

STATE = "state.json"
PICTURES = "pictures.npz"
SWEEP = 10_000
"""Picture files that are stat'ed before they are compared in one go."""


@dataclass(frozen=True)
class Seen:
    """State of a picture file when indexed: bytes and mtime in ns (both -1 if missing), digest, width and height (None
    if unreadable), and problems."""

    bytes: int
    changed: int
    sha256: str
    size: tuple[int, int] | None
    problems: tuple[Problem, ...]


class IndexState(TypedDict):
    """The content of state.json."""

    format: int
    files: list[list[str | int]]
    """Each with its size and stamp; those in the run folder by their place in it."""
    index: str


def state_of(home: Path) -> IndexState | None:
    """The content of state.json, if its index can be opened."""
    try:
        state = json.loads((home / STATE).read_text())
    except (OSError, ValueError):
        return None
    known = isinstance(state, dict) and state.get("format") == INDEX and {"files", "index"} <= state.keys()
    return state if known else None


def size_of(file: str) -> int:
    """Size of a dataset's file in bytes.

    Raises:
        DataError: it is missing or inaccessible.
    """
    return _stamp(file)[0]


def _stamp(file: str) -> tuple[int, str]:
    try:
        return stamp(file)
    except FileNotFoundError:
        raise MissingDataset(f"missing dataset file: {file}") from None
    except OSError as e:
        raise DataError(f"unreadable dataset file: {file}: {e}") from None


def stamps(files: Sequence[str], home: Path) -> list[list[str | int]]:
    """Each file of a dataset with its size and stamp.

    Raises:
        DataError: one is missing or inaccessible.
    """
    return [[relative(runs_of(home), file), *_stamp(file)] for file in files]


def write_seen(home: Path, seen: dict[str, Seen]) -> None:
    """Write the table of the local picture files that an index was built from."""
    problems, runs = {i: s.problems for i, s in enumerate(seen.values()) if s.problems}, runs_of(home)
    tmp = home / ".pictures.npz"
    with tmp.open("wb") as f:
        np.savez(
            f,
            format=np.array(INDEX),
            names=np.frombuffer("\0".join(relative(runs, place) for place in seen).encode(), np.uint8),
            stamps=np.array([(s.bytes, s.changed) for s in seen.values()], np.int64).reshape(-1, 2),
            digests=np.frombuffer(b"".join(bytes.fromhex(s.sha256 or "00" * 32) for s in seen.values()), np.uint8),
            sizes=np.array([s.size or (0, 0) for s in seen.values()], np.int32).reshape(-1, 2),
            problems=np.frombuffer(json.dumps(problems).encode(), np.uint8),
        )
    tmp.replace(home / PICTURES)


def _names(table: Mapping[str, np.ndarray]) -> list[str]:
    text = table["names"].tobytes().decode()
    return text.split("\0") if text else []


def pictures_changed(home: Path) -> bool:
    """Whether any local picture file has changed.

    This costs one stat per file (1.7 s of a core for 624,000) and little more: names stay bytes, because encoding one
    costs half as much as a stat, and numpy compares.
    """
    try:
        with (home / PICTURES).open("rb") as f, np.load(f) as table:
            text, stamps = table["names"].tobytes(), table["stamps"]
    except Exception:  # noqa: BLE001  (numpy, zipfile and zlib have a dozen for a table that is not what was written)
        return True
    places = text.split(b"\0") if text else []
    runs = os.open(runs_of(home), os.O_RDONLY)
    try:
        for at in range(0, len(places), SWEEP):
            now = np.fromiter((n for place in places[at : at + SWEEP] for n in _size_and_time(place, runs)), np.int64)
            if not np.array_equal(now.reshape(-1, 2), stamps[at : at + SWEEP]):
                return True
        return False
    finally:
        os.close(runs)


def _size_and_time(place: bytes, runs: int) -> tuple[int, int]:
    """(size in bytes, mtime in ns) of a file, which may be relative to an open folder; both -1 if there is none."""
    try:
        found = os.stat(place, dir_fd=runs)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=1)
def known_pictures(path: Path, changed: int) -> dict[str, Seen]:
    """The picture files that the last index was built from; `changed` is the mtime of their table."""
    try:
        with path.open("rb") as f, np.load(f) as table:
            if int(table["format"]) != INDEX:  # another version of the reader may have accepted other pictures
                return {}
            digests, problems = table["digests"].tobytes(), json.loads(table["problems"].tobytes())
            names = (join(runs_of(path.parent), name) for name in _names(table))
            rows = zip(names, table["stamps"].tolist(), table["sizes"].tolist(), strict=True)
            return {
                place: Seen(
                    bytes_,
                    changed,
                    digests[32 * i : 32 * i + 32].hex(),
                    (width, height) if width else None,
                    tuple((kind, why) for kind, why in problems.get(str(i), ())),
                )
                for i, (place, (bytes_, changed), (width, height)) in enumerate(rows)
            }
    except Exception:  # noqa: BLE001  (as above: nothing is known, so everything is read)
        return {}
