"""An endpoint that follows the champion of a run folder: `python serving_champion.py PORT RUNS`, until SIGTERM."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from remora.serving.args import EndpointArgs, IngressArgs
from remora.serving.deploy import serve_forever

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    serve_forever(
        EndpointArgs(
            runs=Path(sys.argv[2]),
            no_keys=True,
            min_replicas=1,
            max_replicas=1,
            follow_seconds=0.3,
            ingress=IngressArgs(min_replicas=1),
        ),
        port=int(sys.argv[1]),
        ready=lambda url: print("READY", url, flush=True),
    )
    print("STOPPED", flush=True)
