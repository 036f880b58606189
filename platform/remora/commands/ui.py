"""`remora ui`: MLflow's pages for the run folder, or TensorBoard's, until Ctrl-C. Their output goes to a file."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import httpx

from remora.commands.options import UiOptions
from remora.commands.saying import say
from remora.errors import TrackingError
from remora.files import disk_errors
from remora.processes import Child, free_or_refused
from remora.tracking import Tracker
from remora.tracking.board import Board
from remora.tracking.connection import AS_TRAINING
from remora.tracking.tracker import PATIENCE

READY_S = 120.0


def ui(options: UiOptions) -> None:
    """Run a server in a child, MLflow's with one worker process; returns when it is stopped.

    Raises:
        TrackingError: nothing was recorded in the run folder, the pages are not installed, the port is in use, or
            MLflow does not start.
    """
    if options.tensorboard:
        _tensorboard(options)
    if find_spec("flask") is None:  # mlflow-skinny has none of MLflow's pages
        raise TrackingError("MLflow's pages are not installed; next: pip install 'remora[ui]'")
    tracker = Tracker(options.runs)
    tracker.check_there()
    if problem := free_or_refused("127.0.0.1", options.port):
        raise TrackingError(f"MLflow's pages need a free port: {problem}; next: --port {options.port % 65535 + 1}")
    with contextlib.suppress(TrackingError):  # a read-only run folder
        tracker.sync()
    # One worker: each is a process of 300 MB, and one person looks. Its job runner would start eight more.
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(options.port),
    ]
    command += ["--workers", "1", "--backend-store-uri", tracker.uri]
    env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = Child(command, _log(options.runs), env)
    say(f"starting MLflow on {tracker.server.shown} (log: {server.log})")
    _serve(server, "MLflow", options.port, "health", lambda: _experiment(tracker))


def _tensorboard(options: UiOptions) -> NoReturn:
    """Raises:
    TrackingError: it is not installed, nothing was trained, the port is in use, or it does not start.
    """
    if find_spec("tensorboard") is None:
        raise TrackingError("TensorBoard is not installed; next: pip install tensorboard")
    if problem := free_or_refused("127.0.0.1", options.port):
        raise TrackingError(f"TensorBoard needs a free port: {problem}; next: --port {options.port % 65535 + 1}")
    if not (options.runs / "stages").is_dir():
        raise TrackingError(f"{options.runs}: nothing was trained there; give the right run folder with --runs DIR")
    board = Board(options.runs)
    with disk_errors(options.runs):
        board.folder.mkdir(exist_ok=True)  # from now on every command adds to it
        board.write(PATIENCE)
    board.close()
    command = [sys.executable, "-W", "ignore", "-m", "tensorboard.main", "--logdir", str(board.folder)]
    command += ["--host", "127.0.0.1", "--port", str(options.port), "--reload_interval", "5"]
    server = Child(command, _log(options.runs))
    say(f"starting TensorBoard on {board.folder} (log: {server.log})")
    _serve(server, "TensorBoard", options.port, "", lambda: "/#timeseries")


def _serve(server: Child, name: str, port: int, health: str, page: Callable[[], str]) -> NoReturn:
    """Until it is stopped, or ends by itself."""
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(server, name, f"{url}/{health}")
        say(f"ready: {url}{page()}", "stop it with Ctrl-C")
        while server.running:
            threading.Event().wait(0.5)
        raise TrackingError(f"{name} ended: {server.error()}")
    finally:
        server.stop()


def _log(runs: Path) -> Path:
    """In the run folder, or in a temporary folder if that is read-only."""
    name = f"ui-{time.strftime('%Y%m%d-%H%M%S')}.log"
    return (runs / "logs" if os.access(runs, os.W_OK) else Path(tempfile.gettempdir())) / name


def _wait(server: Child, name: str, url: str) -> None:
    end = time.monotonic() + READY_S
    while server.running and time.monotonic() < end:
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    why = f"it did not answer for {READY_S:.0f} s (log: {server.log})" if server.running else str(server.error())
    raise TrackingError(f"{name} did not start: {why}")


def _experiment(tracker: Tracker) -> str:
    """The URL of the experiment's page; MLflow's start page does not show it."""
    with tracker.client() as client:
        found = client.get_experiment_by_name(tracker.experiment)
    return f"/#/experiments/{found.experiment_id}/runs?{AS_TRAINING}" if found else ""
