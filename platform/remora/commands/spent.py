"""What a training or a search takes of time and disk: a note before, if the disk is nearly full, and a line after."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from remora.files.disk import nearest_there, size_of
from remora.pipeline.checkup.machine import LEAST_FREE
from remora.reporting.holdings import amount
from remora.training.meter import duration


def warn_of_disk(runs: Path, tell: Callable[[str], None]) -> None:
    """A note if the run folder's disk has little room: checkpoints of a large model take tens of gigabytes."""
    if (free := shutil.disk_usage(nearest_there(runs)).free) < LEAST_FREE:
        tell(f"note: {amount(free)} are left on the disk of {runs}; next: remora runs gc")


def spent_line(began: float, runs: Path, stages: Iterable[tuple[str, str]]) -> str:
    """`took 3:10; 2 stage runs were trained, 21.0 MB; 71.5 GB are left`.

    Args:
        began: In seconds since 1970.
        stages: Each stage run with `trained` or `reused`; more than once if variants share it.
    """
    trained = {name for name, state in stages if state == "trained"}
    size = size_of(runs / "stages" / name for name in trained)
    free = shutil.disk_usage(runs).free
    runs_trained = (
        f"{len(trained)} stage run{'s' * (len(trained) != 1)} {'were' if len(trained) != 1 else 'was'} trained"
    )
    return f"took {duration(time.time() - began)}; {runs_trained}, {amount(size.bytes)}; {amount(free)} are left"
