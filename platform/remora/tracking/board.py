"""TensorBoard's event files, for who wants them: one folder a stage run, written from its journal.

    remora ui --tensorboard                          # from then on each sync adds to them
    tensorboard --logdir ~/remora/tensorboard

TensorBoard calls a run by its folder, so that is the variant that was the first to need it, then the stage run.

They are written only where that folder is: the library that writes them loads torch, 1.3 s and 185 MB of a command.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from remora.extras import needs
from remora.files import write_json
from remora.tracking.locks import locked
from remora.tracking.metric_names import LoggedStep, step_of, validation_of
from remora.tracking.record import FOLDER as FOLDER_OF_RECORDS
from remora.tracking.record import file_of, read_record
from remora.tracking.stage_files import StageFiles

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

FOLDER = "tensorboard"
LEARNING = ("loss", "lr", "grad_norm", "loss_scale")
"""Figures of training that say nothing of the workers."""
WRITTEN = "written.json"
"""What of a stage run is in its event files: its journal's mark, the last step, and the steps of validations."""


class BoardState(TypedDict):
    """The content of that file."""

    mark: str
    step: int
    validations: list[list[int]]
    """Each with its step and time."""


class Board:
    """One process's view of the event files of a run folder. Files stay open, so that a training has one."""

    def __init__(self, runs: Path) -> None:
        self.runs, self.folder = runs, runs / FOLDER
        self._writers: dict[str, SummaryWriter] = {}
        self._places: dict[str, Path] = {}
        """Stage run -> its folder."""

    def write(self, wait: float = 0.0) -> int:
        """Add what is new of all stage runs; how many had any. Nothing where there is no folder, or where another
        process writes for all of `wait` seconds."""
        if not self.folder.is_dir():
            return 0
        with locked(self.folder / ".lock", wait) as mine:
            return sum(map(self._stage, self._names())) if mine else 0

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _names(self) -> list[str]:
        found = (p for p in (self.runs / "stages").glob("*-*") if p.is_dir() and not p.name.startswith("."))
        return sorted({p.name.removesuffix(".work") for p in found if ".torn-" not in p.name})

    def _stage(self, name: str) -> bool:
        stage, written = StageFiles(self.runs / "stages" / name), self._place(name) / WRITTEN
        known: BoardState = {"mark": "", "step": -1, "validations": []}
        with contextlib.suppress(OSError, ValueError):
            known |= json.loads(written.read_text())
        if known["mark"] == (mark := stage.mark()):
            return False
        events = stage.events()
        # A stage that resumes repeats steps: what is there already is left out.
        steps = [s for e in events if (s := step_of(e)) and s[0] > known["step"]]
        validations = [v for e in events if (v := validation_of(e)) and [v[0], v[1]] not in known["validations"]]
        self._add(name, [*steps, *validations])
        last = max([known["step"], *(s[0] for s in steps)])
        told = [*known["validations"], *([v[0], v[1]] for v in validations)]
        write_json(written, {"mark": mark, "step": last, "validations": told})
        return True

    def _place(self, name: str) -> Path:
        if name not in self._places:
            self._places |= {p.parent.name: p.parent for p in self.folder.glob(f"**/{WRITTEN}")}
        if name not in self._places:
            users = {**dict.fromkeys([name], ""), **_users(self.runs)}
            self._places |= {run: self.folder / user / run for run, user in users.items() if run not in self._places}
        return self._places[name]

    def _add(self, name: str, points: list[LoggedStep]) -> None:
        if name not in self._writers:
            with needs("train"):
                from tensorboardX import SummaryWriter

            # Two of one second would have one name, and the second would take the first one's place.
            own = f".{uuid.uuid4().hex[:8]}"
            self._writers[name] = SummaryWriter(str(self._place(name)), filename_suffix=own)
        for step, at, values in points:
            for figure, value in values.items():
                self._writers[name].add_scalar(_tag(figure), value, step, walltime=at / 1000)
        self._writers[name].flush()


def _tag(figure: str) -> str:
    """TensorBoard puts what has the same first word side by side, and these words in the order of the alphabet."""
    if figure.startswith("val_"):
        return f"val/{figure.removeprefix('val_')}"
    return f"{'train' if figure.partition('.')[0] in LEARNING else 'workers'}/{figure}"


def _users(runs: Path) -> dict[str, str]:
    """Stage run -> the variant that it was first trained for, as far as records say."""
    found: dict[str, str] = {}
    for file in (runs / FOLDER_OF_RECORDS).glob("stage-*.json"):
        with contextlib.suppress(OSError, ValueError):
            record = read_record(file)
            if record.stage and record.parent:
                found[Path(record.stage).name] = read_record(file_of(runs, record.parent)).name
    return found
