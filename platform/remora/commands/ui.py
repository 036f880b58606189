"""`remora ui`: MLflow's pages for the run folder, until Ctrl-C. MLflow's output goes to a file."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import httpx

from remora.commands.options import UiOptions
from remora.commands.run import say
from remora.errors import TrackingError
from remora.processes import Child, free_or_refused
from remora.tracking import Tracker

READY_S = 120.0


def ui(options: UiOptions) -> None:
    """Run MLflow's server in a child with one worker process; returns when it is stopped.

    Raises:
        TrackingError: nothing was recorded in the run folder, the pages are not installed, the port is in use, or
            MLflow does not start.
    """
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
    url = f"http://127.0.0.1:{options.port}"
    try:
        say(f"starting MLflow on {tracker.server.shown} (log: {server.log})")
        _wait(server, url)
        say(f"ready: {url}{_experiment(tracker)}", "stop it with Ctrl-C")
        while server.running:
            threading.Event().wait(0.5)
        raise TrackingError(f"MLflow ended: {server.error()}")
    finally:
        server.stop()


def _log(runs: Path) -> Path:
    """In the run folder, or in a temporary folder if that is read-only."""
    name = f"ui-{time.strftime('%Y%m%d-%H%M%S')}.log"
    return (runs / "logs" if os.access(runs, os.W_OK) else Path(tempfile.gettempdir())) / name


def _wait(server: Child, url: str) -> None:
    end = time.monotonic() + READY_S
    while server.running and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    why = f"it did not answer for {READY_S:.0f} s (log: {server.log})" if server.running else str(server.error())
    raise TrackingError(f"MLflow did not start: {why}")


def _experiment(tracker: Tracker) -> str:
    """The URL of the experiment's page; MLflow's start page does not show it."""
    with tracker.client() as client:
        found = client.get_experiment_by_name(tracker.experiment)
    return f"/#/experiments/{found.experiment_id}" if found else ""
