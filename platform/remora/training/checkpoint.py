"""Checkpoints of a stage run: full named tensors of what training changed, independent of world size and ZeRO stage.

`checkpoints/step-000050/` has trained.safetensors (trained parameters), moments.safetensors (AdamW's state), state.json
(the step, and what later steps depend on) and manifest.json (digests). It is published atomically. A checkpoint that
does not match its digests is refused by name, and the one before it is used.
"""

from __future__ import annotations

import json
import logging
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

from remora.errors import StoreError
from remora.files import publishing, verify
from remora.training.job import by_step

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to resume from; `step` is the next step to take."""

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
    state: Mapping[str, object] | None = None,
) -> Path:
    """Publish a checkpoint and delete all but the newest `keep`. Only one rank calls this."""
    folder = root / f"step-{step:06d}"
    with publishing(folder) as tmp:
        save_file(trained, tmp / "trained.safetensors")
        save_file(moments, tmp / "moments.safetensors")
        (tmp / "state.json").write_text(json.dumps({"step": step, **(state or {})}))
    for old in list(by_step(root).values())[:-keep]:
        shutil.rmtree(old)
    return folder


class Writer:
    """Writes checkpoints in a thread while training continues, one at a time. Only rank 0 has one.

    A failed write does not stop training: it is logged, older checkpoints stay, and the next one is tried as usual.

    Args:
        told: called from the thread with (step, seconds, error or None) after each write.
    """

    def __init__(self, root: Path, keep: int, told: Callable[[int, float, str | None], None]) -> None:
        self.root, self.keep, self._told = root, keep, told
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        for torn in root.glob(".step-*"):  # what a killed process was writing
            shutil.rmtree(torn, ignore_errors=True)

    def save(self, step: int, trained: dict[str, Tensor], moments: dict[str, Tensor], state: dict[str, object]) -> None:
        """Start writing tensors that must not change any more. Waits for the previous write, so that at most two
        checkpoints are in memory."""
        self.wait()
        self._writing = self._pool.submit(self._write, step, trained, moments, state)

    def wait(self) -> None:
        """Wait until the last write is on disk or has failed."""
        if self._writing:
            self._writing.result()
            self._writing = None

    def _write(
        self, step: int, trained: dict[str, Tensor], moments: dict[str, Tensor], state: dict[str, object]
    ) -> None:
        began, error = time.monotonic(), None
        try:
            save(self.root, step, trained, moments, self.keep, state)
        except (OSError, StoreError, SafetensorError) as e:
            error = str(e)
            log.error("the checkpoint of step %d is not written, those before it stay: %s", step, e)
        self._told(step, time.monotonic() - began, error)


def latest(root: Path, hear: Callable[[str], None] = log.warning) -> Checkpoint | None:
    """The newest intact checkpoint, or None. `hear` is called with a message for each one refused."""
    for folder in reversed(by_step(root).values()):
        try:
            verify(folder)
            state = json.loads((folder / "state.json").read_text())
            return Checkpoint(folder, state.pop("step"), state)
        except (StoreError, OSError, ValueError, KeyError, AttributeError, TypeError) as e:
            why = str(e).partition(";")[0] if isinstance(e, StoreError) else f"{folder}: no readable state.json ({e})"
            hear(f"checkpoint refused, the one before it is used: {why}")
    return None
