"""Checkpoints of a stage run: what training changed, whole and by name, whatever the world size and ZeRO stage were.

`checkpoints/step-000050/` holds trained.safetensors (trained parameters), moments.safetensors (AdamW's state),
state.json (the step) and manifest.json (digests). It is published atomically; one that does not match its digests is
refused by name and the one before it is used.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from remora.errors import TornArtifact
from remora.files import publishing, verify

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Where training goes on: `step` is the next step to take."""

    folder: Path
    step: int

    def trained(self) -> dict[str, Tensor]:
        return load_file(self.folder / "trained.safetensors")

    def moments(self) -> dict[str, Tensor]:
        return load_file(self.folder / "moments.safetensors")


def save(root: Path, step: int, trained: dict[str, Tensor], moments: dict[str, Tensor], keep: int) -> Path:
    """Publish a checkpoint and remove all but the newest `keep`. Only one rank calls this."""
    folder = root / f"step-{step:06d}"
    with publishing(folder) as tmp:
        save_file(trained, tmp / "trained.safetensors")
        save_file(moments, tmp / "moments.safetensors")
        (tmp / "state.json").write_text(json.dumps({"step": step}))
    for old in _by_step(root)[:-keep]:
        shutil.rmtree(old)
    return folder


def latest(root: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what was written, or None. A torn one is named in the log, and skipped."""
    for folder in reversed(_by_step(root)):
        try:
            verify(folder)
        except TornArtifact as e:
            log.warning("checkpoint refused, using the one before it: %s", e)
            continue
        return Checkpoint(folder, json.loads((folder / "state.json").read_text())["step"])
    return None


def _by_step(root: Path) -> list[Path]:
    return sorted(root.glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")))
