"""An endpoint that follows the champion of a run folder, by serve/production.yaml but small: `python
serving_champion.py PORT RUNS [ARGUMENT=VALUE…]`, until SIGTERM."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import yaml

from remora.serving.args import EndpointArgs
from remora.serving.deploy import serve_forever

CONFIG = Path(__file__).parents[2] / "serve" / "production.yaml"
SMALL = {"min_replicas": 1, "max_replicas": 1, "num_cpus": 0.1}

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    shipped = yaml.safe_load(CONFIG.read_text())["applications"][0]["args"]
    here = {"runs": sys.argv[2], "tracking_uri": None, "keys": None, "no_keys": True}
    small = {**SMALL, "cache_bytes": 2**26, "follow_seconds": 0.3, "ingress": shipped["ingress"] | SMALL}
    small |= {name: yaml.safe_load(value) for name, _, value in (each.partition("=") for each in sys.argv[3:])}
    serve_forever(
        EndpointArgs.read(shipped | here | small),
        port=int(sys.argv[1]),
        ready=lambda url: print("READY", url, flush=True),
    )
    print("STOPPED", flush=True)
