"""What killed commands leave in a run folder.

Each place is swept by the next command that owns it; `remora runs gc` sweeps all of them.

    stages/.*, bundles/.*, …     half-written folders
    stages/<run>.work            the work of a run that is published (one that is not is a resume's)
    stages/<run>.torn-*          a published run that did not match its manifest, kept for a look
    ray/<attempt>                Ray's own files of a group of workers or a search
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from remora.files import disk_errors, exclusive, is_held, is_published, left_over, sweep

WRITTEN = (
    *("stages", "bundles", "scores", "status", "searches", "tracking"),
    *("cache", "cache/llm", "cache/champions", "data/index"),
)
"""Folders below the run folder in which whole folders and files are published."""


@dataclass(frozen=True)
class Leftover:
    """Something that nobody uses any more."""

    path: Path
    why: str

    @property
    def bytes(self) -> int:
        """That deleting it frees: those of files that have no other name."""
        files = [self.path] if self.path.is_file() else [p for p in self.path.rglob("*") if p.is_file()]
        return sum(s.st_size for f in files if (s := f.lstat()).st_nlink == 1)


def leftovers(runs: Path) -> Iterator[Leftover]:
    """All that killed commands left, in an order in which it can be deleted."""
    for name in WRITTEN:
        for path in left_over(runs / name):
            yield Leftover(path, "half written")
    for path in sorted((runs / "stages").glob("*.work")):
        if is_published(path.with_suffix("")) and not is_held(path.with_suffix(".lease")):
            yield Leftover(path, "its run is published")
    for path in sorted((runs / "stages").glob("*.torn-*")):
        yield Leftover(path, "did not match its manifest")
    yield from _attempts(runs)


def delete(found: Leftover) -> None:
    """Delete it; half of a replacement goes back to its place."""
    with disk_errors(found.path.parent):
        if found.why == "half written":
            sweep(found.path.parent)
        elif found.path.is_dir():
            shutil.rmtree(found.path)
        else:
            found.path.unlink(missing_ok=True)


@contextlib.contextmanager
def attempt(runs: Path, name: str) -> Iterator[Path]:
    """`ray/<name>`, for what Ray keeps of a group of workers or a search: gone when the block ends well.

    If it fails the folder stays until the next one begins, since errors name it.
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
