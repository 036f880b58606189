"""`remora sync`: bring MLflow up to date with the run folder, after an outage or a killed command."""

from __future__ import annotations

import json

from remora.commands.options import SyncOptions
from remora.commands.saying import say, say_nothing
from remora.errors import TrackingError, several
from remora.files import disk_errors
from remora.tracking import Tracker
from remora.tracking.board import Board
from remora.tracking.tracker import PATIENCE


def sync(options: SyncOptions) -> None:
    """Write what MLflow lacks, and end the runs of killed commands; TensorBoard's files too, if asked for.

    Raises:
        TrackingError: nothing was recorded in the run folder; MLflow cannot be reached, or refuses a run.
    """
    if not (options.runs / "tracking").is_dir():
        raise TrackingError(
            f"{options.runs}: no command recorded a run there; give the right run folder with --runs DIR"
        )
    told, boarded = (say_nothing if options.json else say), None
    if options.tensorboard:
        board = Board(options.runs)
        with disk_errors(options.runs):
            board.folder.mkdir(exist_ok=True)
            added = board.write(PATIENCE)
        board.close()
        boarded = {"stage_runs": added, "folder": str(board.folder)}
        told(
            f"TensorBoard: {several(added, 'stage run')} brought up to date; next: tensorboard --logdir {board.folder}"
        )
    tracker = Tracker(options.runs, options.tracking_uri)
    report = tracker.sync()
    told(f"MLflow at {tracker.server.shown}: {several(report.runs, 'run')}, {report.written} brought up to date")
    if options.json:
        counts = {"runs": report.runs, "written": report.written, "refused": report.refused}
        say(json.dumps({"server": tracker.server.shown, **counts, "tensorboard": boarded}, indent=1))
    if report.refused:
        raise TrackingError(f"{len(report.refused)} of {report.runs} runs are refused; the first: {report.refused[0]}")
