"""Answers and scores at the URL of a run folder: a model is asked by one node, and compared on any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from remora.evaluation.sheet import ASKED
from remora.files import sha256_file
from remora.sharing import around

KEPT = 2
"""Versions that stay: the newest, and the one that somebody may be reading."""


def bring_scores(scores: Path) -> None:
    """Bring scores of other nodes for which this one has no folder."""
    if (shared := around(scores)) is None:
        return
    for name in shared.names(shared.key(scores)):
        folder = scores / name
        if not name.endswith(".lease") and not folder.exists() and (found := shared.newest(shared.key(folder))):
            shared.replace(folder, found)


@contextmanager
def shared_answers(folder: Path, wait: Callable[[str], None]) -> Iterator[None]:
    """For a block that adds to a folder of answers: one node at a time, from where the last one was. What there is at
    the end is sent, unless the block raises."""
    if (shared := around(folder)) is None:
        yield
        return
    key = shared.key(folder)
    with shared.leases.hold(key, wait):
        before = shared.newest(key)
        own = folder / ASKED
        if before and before.files[ASKED].bytes > (own.stat().st_size if own.exists() else -1):
            shared.replace(folder, before)
        yield
        now = {p.relative_to(folder).as_posix(): sha256_file(p) for p in folder.rglob("*") if p.is_file()}
        if before is None or now != {name: file.sha256 for name, file in before.files.items()}:
            shared.send(folder, before.number + 1 if before else 1)
            shared.keep_newest(key, KEPT)
