"""Delete what nobody needs, or one thing; never what something else needs.

A folder is first renamed as a half-written one is called, so that a killed deletion leaves a leftover and never half a
stage run.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from remora.errors import StoreError
from remora.files import discard, disk_errors, exclusive
from remora.files.disk import changed_at, size_of
from remora.pipeline.command_records import commands_at_work
from remora.pipeline.upkeep.holdings import CONTENT, Holding, named
from remora.pipeline.upkeep.locks import locks_of
from remora.pipeline.upkeep.needs import OWN, Needs
from remora.runs.leftovers import delete, leftovers
from remora.sharing import SharedRuns
from remora.sharing.leftovers import SharedListing

FRESH = 3600.0
"""Seconds for which something new is not collected: a command that has just begun may be about to use it."""


@dataclass(frozen=True)
class Garbage:
    """Something that a collection deletes, or would."""

    path: Path | str
    """Its place, or its URL."""
    why: str
    frees: int
    """Bytes."""


def collect_leftovers(runs: Path, really: bool) -> Iterator[Garbage]:
    """What killed commands left."""
    for each in list(leftovers(runs)):
        found = Garbage(each.path, each.why, each.bytes)
        if really:
            delete(each)
        yield found


def collect_at_url(shared: SharedRuns, really: bool) -> Iterator[Garbage]:
    """What killed commands of any node left at the URL of a run folder."""
    for each in SharedListing(shared).leftovers():
        if really:
            shared.remove(each.key)
        yield Garbage(f"{shared.url}/{each.key}", each.why, each.bytes)


def collect(needs: Needs, really: bool) -> Iterator[Garbage]:
    """What nobody needs. Nothing while a command works in the run folder: it may be about to use it. Nothing either
    while a file cannot be read that says what is needed."""
    if needs.at_work or needs.unread:
        return
    now = time.time()
    for holding in needs.unneeded():
        if not holding.path.exists() or now - changed_at(holding.paths) < FRESH:  # another collection deleted it
            continue
        found = Garbage(holding.path, f"{holding.kind}, needed by nothing", size_of(holding.paths).frees)
        if really:
            if commands_at_work(needs.runs):  # since this began, which may be long ago
                return
            _delete(holding)
        yield found


def fresh(needs: Needs) -> list[Holding]:
    """What nobody needs, but was written within the last hour."""
    now = time.time()
    return [h for h in needs.unneeded() if now - changed_at(h.paths) < FRESH]


def remove(holding: Holding, needs: Needs, really: bool) -> Garbage:
    """Delete one thing.

    Raises:
        StoreError: something needs it, or may need it, or a command works at it; the line says who.
    """
    if users := needs.of(holding):
        raise StoreError(
            f"{holding.shown} is needed by {named([u.shown for u in users])}; next: delete that first, or "
            f"remora runs show {holding.place}"
        )
    unread = [str(file) for file in needs.unread if not file.is_relative_to(holding.path)]
    if unread and holding.kind not in OWN:
        raise StoreError(f"{holding.shown} may be needed: {named(unread)} cannot be read; next: remora runs verify")
    found = Garbage(holding.path, holding.kind, size_of(holding.paths).frees)
    if really:
        _delete(holding)
    return found


def _delete(holding: Holding) -> None:
    """Raises:
    StoreError: a command has just begun to work at it, or the disk refuses.
    """
    folder = holding.path
    locks = locks_of(holding)
    with contextlib.ExitStack() as held, disk_errors(folder.parent):
        for lock in locks:
            if not held.enter_context(exclusive(lock, enough=lambda: True)):
                raise StoreError(f"{holding.shown}: a command works at it; next: wait for it")
        for path in reversed(holding.paths):
            if path.is_dir() and not path.is_symlink():
                discard(path)
            else:  # of a link, what it leads to stays: a person has put it elsewhere
                path.unlink(missing_ok=True)
        if holding.kind == "index" and not any(CONTENT.fullmatch(p.name) for p in folder.parent.iterdir()):
            shutil.rmtree(folder.parent)
        for lock in locks:
            if lock.name != "lock":  # which the dataset's other indexes have, too
                lock.unlink(missing_ok=True)
