"""Handing an unfinished stage run from one node to another, where the run folder is a URL.

While a process has the lease, a thread sends every checkpoint to the URL when training has published it, with the
journal up to then, and the trained stage run. The next process to hold the lease starts from the newest checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from remora.errors import StoreError
from remora.files import copy, is_published, scratch
from remora.processes import meanwhile
from remora.sharing import LeaseHeld, SharedRuns
from remora.training.job import CHECKPOINTS, by_step
from remora.training.journal import JOURNAL

log = logging.getLogger(__name__)
LOOK_EVERY = 1.0
"""Seconds between two looks for a new checkpoint."""
KEPT = 2
"""Checkpoints that stay at the URL: the newest, and the one before it."""


def take_over(work: Path, shared: SharedRuns) -> None:
    """Make a working folder of the newest checkpoint at the URL, unless this node has a newer one itself."""
    key = shared.key(work)
    for number in reversed(shared.numbers(key)):
        if number <= _newest(work)[0]:
            return
        try:
            if found := shared.version(key, number):
                shared.replace(work, found)
                log.info("%s: goes on from the checkpoint of step %d of another node", work.stem, number)
                return
        except StoreError as e:
            log.warning("checkpoint refused, the one before it is used: %s", e)


@contextlib.contextmanager
def handing_over(work: Path, trained: Path, shared: SharedRuns, lease: LeaseHeld) -> Iterator[None]:
    """Send checkpoints as they are published, during the block, and the last one at its end; or `trained`, the folder
    of the stage run, as soon as that is there."""
    sender = CheckpointSender(work, trained, shared, lease)
    try:
        with meanwhile(sender.look, LOOK_EVERY, "handover"):
            yield
    finally:
        sender.look()


class CheckpointSender:
    """Sends the newest checkpoint of a working folder, once each, and then the stage run."""

    def __init__(self, work: Path, trained: Path, shared: SharedRuns, lease: LeaseHeld) -> None:
        self.work, self.trained, self._shared, self._lease = work, trained, shared, lease
        self.sent = max(shared.numbers(shared.key(work)), default=0)

    def look(self) -> None:
        """Send it if it is new. A failure does not stop training: it is logged, and tried again at the next look."""
        if is_published(self.trained):
            try:
                self._shared.send_missing(self.trained)
            except StoreError as e:
                log.warning("%s: trained, but not sent yet: %s", self.trained.name, e)
            return
        step, checkpoint = _newest(self.work)
        if checkpoint is None or step <= self.sent or self._lease.lost:
            return
        try:
            with scratch(self.work.with_name(f"{self.work.name}-sent")) as tmp:
                # Links: training deletes old checkpoints, and appends to the journal.
                copy(checkpoint, tmp / CHECKPOINTS / checkpoint.name)
                shutil.copy2(self.work / JOURNAL, tmp / JOURNAL)
                self._shared.send(self.work, step, of=tmp)
            self.sent = step
            self._shared.keep_newest(self._shared.key(self.work), KEPT)
        except FileNotFoundError:
            return  # training deleted it, because there is a newer one, or published the stage run
        except (OSError, StoreError) as e:
            log.warning("%s: the checkpoint of step %d is not sent yet: %s", self.work.stem, step, e)


def _newest(work: Path) -> tuple[int, Path | None]:
    """The newest published checkpoint of a working folder, with its step; (0, None) if there is none."""
    found = [(step, folder) for step, folder in by_step(work / CHECKPOINTS).items() if is_published(folder)]
    return found[-1] if found else (0, None)
