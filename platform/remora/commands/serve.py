"""`remora serve` and `remora ui`."""

from __future__ import annotations

import argparse
import os
import sys

from remora.commands.run import say
from remora.serving import champion
from remora.serving.args import EndpointArgs
from remora.serving.deploy import serve_forever
from remora.tracking import Tracker


def serve(args: argparse.Namespace) -> None:
    """Serve the champion until Ctrl-C."""
    endpoint = EndpointArgs(model=args.model, alias=args.alias, runs=args.runs, tracking_uri=args.tracking_uri)
    champion.find(endpoint)  # a registry without a champion is told at once, not by replicas that fail to start
    serve_forever(
        endpoint,
        host=args.host,
        port=args.port,
        address=args.address,
        ready=lambda url: say(f"ready: {url}"),
    )


def ui(args: argparse.Namespace) -> None:
    """Replace this process by MLflow's server on the run folder's database."""
    tracker = Tracker(args.runs)
    tracker.prepare()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracker.uri, "--port", str(args.port)]
    # Its job runner would start eight more processes (1 GB) that nothing here uses.
    os.execve(sys.executable, command, {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
