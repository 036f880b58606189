"""A node of a cluster without a common disk: `remora`, on little of the demo's data, which each node makes for itself.

REMORA_RUNS=s3://bucket/runs REMORA_NODE_FOLDER=DIR python shared_node.py SECONDS search SPACE --local --plain

A node that shows no sign of life for SECONDS is taken for dead.
"""

from __future__ import annotations

import sys

from remora.cli import main
from remora.demo import build_demo
from remora.sharing import leases
from remora.sharing.node import run_folder

if __name__ == "__main__":
    leases.LAPSE = float(sys.argv[1])
    build_demo(run_folder() / "data" / "demo", limit=10)
    main(sys.argv[2:])
