"""Delete what nobody needs, or one thing; never what something else needs.

A folder is first renamed as a half-written one is called, so that a killed deletion leaves a leftover and never half a
stage run.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from remora.errors import StoreError
from remora.files import disk_errors, is_held
from remora.pipeline.upkeep.holdings import Holding, changed_at, size_of
from remora.pipeline.upkeep.needs import Needs
from remora.runs.leftovers import delete, leftovers

FRESH = 3600.0
"""Seconds for which something new is not collected: a command that has just begun may be about to use it."""


@dataclass(frozen=True)
class Garbage:
    """Something that a collection deletes, or would."""

    path: Path
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


def collect(needs: Needs, really: bool) -> Iterator[Garbage]:
    """What nobody needs. Nothing while a command works in the run folder: it may be about to use it."""
    if needs.at_work:
        return
    now = time.time()
    for holding in needs.unneeded():
        if now - changed_at(holding.paths) < FRESH:
            continue
        found = Garbage(holding.path, f"{holding.kind}, needed by nothing", size_of(holding.paths).frees)
        if really:
            _delete(holding)
        yield found


def fresh(needs: Needs) -> list[Holding]:
    """What nobody needs, but was written within the last hour."""
    now = time.time()
    return [h for h in needs.unneeded() if now - changed_at(h.paths) < FRESH]


def remove(holding: Holding, needs: Needs, really: bool) -> Garbage:
    """Delete one thing.

    Raises:
        StoreError: something needs it, or a command works at it; the line says who.
    """
    if users := needs.of(holding):
        raise StoreError(
            f"{holding.shown} is needed by {named([u.shown for u in users])}; next: delete that first, or "
            f"remora runs show {holding.place}"
        )
    found = Garbage(holding.path, holding.kind, size_of(holding.paths).frees)
    if really:
        _delete(holding)
    return found


def named(names: Sequence[str], most: int = 4) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _delete(holding: Holding) -> None:
    """Raises:
    StoreError: a command has just begun to work at it, or the disk refuses.
    """
    folder = holding.path
    leases = [folder.with_suffix(".lease"), folder.with_name(f"{folder.name}.lease")]
    if any(map(is_held, leases)):
        raise StoreError(f"{holding.shown}: a command works at it; next: wait for it")
    with disk_errors(folder.parent):
        for path in reversed(holding.paths):
            if path.is_dir():
                away = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
                path.rename(away)
                shutil.rmtree(away)
            else:
                path.unlink(missing_ok=True)
        if holding.kind in ("stage run", "unfinished stage run"):
            name = folder.name.removesuffix(".work")
            for lease in (f"{name}.lease", f"{name}.validations.lease"):
                if not is_held(path := folder.with_name(lease)):
                    path.unlink(missing_ok=True)
        elif holding.kind == "scores":
            folder.with_name(f".{folder.name}.lease").unlink(missing_ok=True)
        elif holding.kind == "index" and not any(p.is_dir() for p in folder.parent.iterdir()):
            shutil.rmtree(folder.parent)
