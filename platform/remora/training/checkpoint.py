"""Checkpoints of a stage run: what training changed, whole and by name, whatever the world size and ZeRO stage were.

`checkpoints/step-000050/` holds trained.safetensors (trained parameters), moments.safetensors (AdamW's state),
state.json (the step and what a step needs to know of those before it) and manifest.json (digests). It is published
atomically; one that does not match its digests is refused by name and the one before it is used.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from remora.errors import StoreError, TornArtifact
from remora.files import publishing, verify

log = logging.getLogger(__name__)
NAME = re.compile(r"step-[0-9]{6,}")


@dataclass(frozen=True)
class Checkpoint:
    """Where training goes on: `step` is the next step to take."""

    folder: Path
    step: int
    state: Mapping[str, Any]

    def trained(self) -> dict[str, Tensor]:
        return load_file(self.folder / "trained.safetensors")

    def moments(self) -> dict[str, Tensor]:
        return load_file(self.folder / "moments.safetensors")


def save(
    root: Path,
    step: int,
    trained: dict[str, Tensor],
    moments: dict[str, Tensor],
    keep: int,
    state: Mapping[str, Any] | None = None,
) -> Path:
    """Publish a checkpoint and remove all but the newest `keep`. Only one rank calls this."""
    folder = root / f"step-{step:06d}"
    with publishing(folder) as tmp:
        save_file(trained, tmp / "trained.safetensors")
        save_file(moments, tmp / "moments.safetensors")
        (tmp / "state.json").write_text(json.dumps({"step": step, **(state or {})}))
    for old in _by_step(root)[:-keep]:
        shutil.rmtree(old)
    return folder


class Writer:
    """Writes checkpoints in a thread while steps go on, one at a time. Rank 0 alone has one.

    A checkpoint that the disk does not take costs no step: it is logged, the ones before it stay, and the next is tried
    in its turn.

    Args:
        told: hears (step, seconds, error or None) from the thread, after each.
    """

    def __init__(self, root: Path, keep: int, told: Callable[[int, float, str | None], None]) -> None:
        self.root, self.keep, self._told = root, keep, told
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        for torn in root.glob(".step-*"):  # what a killed process was writing
            shutil.rmtree(torn, ignore_errors=True)

    def save(self, step: int, trained: dict[str, Tensor], moments: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Begin to write what nobody changes any more; waits for the one before, so that two at most are in memory."""
        self.wait()
        self._writing = self._pool.submit(self._write, step, trained, moments, state)

    def wait(self) -> None:
        """Until what was begun is on disk, or was given up."""
        if self._writing:
            self._writing.result()
            self._writing = None

    def _write(self, step: int, trained: dict[str, Tensor], moments: dict[str, Tensor], state: dict[str, Any]) -> None:
        began, error = time.monotonic(), None
        try:
            save(self.root, step, trained, moments, self.keep, state)
        except (OSError, StoreError, SafetensorError) as e:
            error = str(e)
            log.error("the checkpoint of step %d is not written, those before it stay: %s", step, e)
        self._told(step, time.monotonic() - began, error)


def latest(root: Path, hear: Callable[[str], None] = log.warning) -> Checkpoint | None:
    """The newest checkpoint whose files are what was written, or None. `hear` is told of each that is refused."""
    for folder in reversed(_by_step(root)):
        try:
            verify(folder)
            state = json.loads((folder / "state.json").read_text())
            return Checkpoint(folder, state.pop("step"), state)
        except (TornArtifact, OSError, ValueError, KeyError, AttributeError, TypeError) as e:
            why = str(e).partition(";")[0] if isinstance(e, TornArtifact) else f"{folder}: no readable state.json ({e})"
            hear(f"checkpoint refused, the one before it is used: {why}")
    return None


def _by_step(root: Path) -> list[Path]:
    """Those below `root`, oldest first. What has another name is somebody's copy: neither read nor deleted."""
    named = {int(p.name.removeprefix("step-")): p for p in root.glob("step-*") if NAME.fullmatch(p.name) and p.is_dir()}
    return [named[step] for step in sorted(named)]
