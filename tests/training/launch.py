"""Start the ranks of a script as torchrun would, without torchrun's own four seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def launch(script: Path, world: int, *args: object, rc: int = 0, env: Mapping[str, str] | None = None) -> str:
    """Run `script` on `world` ranks of this machine, each of which is to end with `rc`; what rank 0 said."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", **(env or {})}
    command = [sys.executable, "-W", "ignore", str(script), *map(str, args)]
    ranks = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(world)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(world)
    ]
    said = [p.communicate()[0] for p in ranks]
    assert [p.returncode for p in ranks] == [rc] * world, "\n".join(s[-3000:] for s in said)
    return said[0]
