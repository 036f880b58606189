"""Find and delete what killed commands left in a run folder.

The next command that uses a place sweeps it; `remora runs gc` sweeps all of them.

    stages/.*, bundles/.*, …     half-written folders
    stages/<run>.work            working folder of a published run (an unpublished run can still be resumed)
    stages/<run>.torn-*          a published run that did not match its manifest, kept for inspection
    feeds/<feed>.*               what a group of workers was given
    bundles/.*.serving.lock      what an endpoint held
ray/<attempt>                Ray's own files of a group of workers or a search
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from remora.files import disk_errors, exclusive, is_held, is_published, left_over, sweep
from remora.files.disk import size_of

WRITTEN = (
    *("stages", "bundles", "scores", "status", "searches", "tracking"),
    *("cache", "cache/llm", "cache/vllm", "cache/champions", "cache/weights", "cards"),
    *("data/index", "data/index/*", "data/index/*/lengths", "data/index/*/contents"),
)
"""Folders below the run folder in which folders and files are published, and patterns for the datasets' ones."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder that is no longer used."""

    path: Path
    why: str

    @property
    def bytes(self) -> int:
        """Bytes that deleting it frees, without files that have other hard links."""
        return size_of([self.path]).frees


def leftovers(runs: Path) -> Iterator[Leftover]:
    """Everything that killed commands left, in an order that is safe for deletion."""
    for name in WRITTEN:
        for folder in sorted(runs.glob(name)):
            for path in left_over(folder):
                yield Leftover(path, "half written")
    for path in sorted((runs / "stages").glob("*.work")):
        leases = (path.with_suffix(".lease"), path.with_suffix(".validations.lease"))  # it validates there, too
        if is_published(path.with_suffix("")) and not any(map(is_held, leases)):
            yield Leftover(path, "its run is published")
    for path in sorted((runs / "stages").glob("*.torn-*")):
        yield Leftover(path, "did not match its manifest")
    for path in sorted((runs / "feeds").glob("*")):
        if not is_held(path.with_name(f"{path.name.partition('.')[0]}.lease")):
            yield Leftover(path, "of a group of workers that ended")
    for parent in ("bundles", "cache/weights", "cache/champions"):
        for lock in sorted((runs / parent).glob(".*.serving.lock")):
            if not is_held(lock):
                yield Leftover(lock, "of an endpoint that ended")
    yield from _attempts(runs)


def delete(found: Leftover) -> None:
    """Delete it; the old version of an unfinished replacement is moved back."""
    with disk_errors(found.path.parent):
        if found.why == "half written":
            sweep(found.path.parent)
        elif found.path.is_dir():
            shutil.rmtree(found.path)
        else:
            found.path.unlink(missing_ok=True)


@contextlib.contextmanager
def attempt(runs: Path, name: str) -> Iterator[Path]:
    """`ray/<name>`, the folder for Ray's files of a worker group or search, deleted when the block succeeds.

    If the block fails, the folder stays until the next attempt begins, because error messages name it.
    """
    folder = runs / "ray" / name
    for old in list(_attempts(runs)):
        delete(old)
    with exclusive(_lease(folder)):
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    _lease(folder).unlink(missing_ok=True)


def _attempts(runs: Path) -> Iterator[Leftover]:
    for path in sorted((runs / "ray").glob("*")):
        if path.is_dir() and not is_held(_lease(path)):
            yield Leftover(path, "Ray's, of a command that ended")
    for lease in sorted((runs / "ray").glob(".*.lease")):
        if not lease.with_name(lease.name[1 : -len(".lease")]).exists() and not is_held(lease):
            yield Leftover(lease, "Ray's, of a command that ended")


def _lease(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lease")
