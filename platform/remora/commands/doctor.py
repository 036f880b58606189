"""`remora doctor`: what is wrong with this machine, and with a cluster's nodes, and what to do about it.

remora doctor
remora doctor --address 10.0.0.1:6379 --json
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from remora.cluster import health
from remora.commands.operate_options import DoctorOptions
from remora.commands.saying import say
from remora.errors import RemoraError
from remora.pipeline.checkup import machine, packages, services
from remora.pipeline.checkup.finding import Check, Finding, examined
from remora.tracking import Tracker

PATIENCE = 75.0
"""Seconds for all checks but the nodes': loading torch on a cold disk, and NCCL's first sum, take most."""


def doctor(options: DoctorOptions) -> None:
    """Check, and print a line each.

    Raises:
        RemoraError: something is wrong; the lines before say what.
    """
    address = options.place.ray_cluster
    said = examined(checks(options), PATIENCE)
    if address:
        said["nodes"] = health.nodes(address, options.runs)
    if options.json:
        say(json.dumps([_record(name, each) for name, each in said.items()], indent=1, ensure_ascii=False))
    else:
        wide = max(map(len, said))
        for name, each in said.items():
            say(f"{each.mark} {name:<{wide}}  {each.said}")
            if each.todo:
                say(f"  {'':<{wide}}  next: {each.todo}")
    if bad := [name for name, each in said.items() if not each.good]:
        raise RemoraError(f"{len(bad)} of {len(said)} checks failed: {', '.join(bad)}")


def checks(options: DoctorOptions) -> dict[str, Check]:
    """Those of this machine, by name, in the order in which they are printed."""
    scratch = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    hub = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    folders = {"run folder": options.runs, "RAY_TMPDIR": scratch, "HF_HOME": hub}
    return {
        "python": packages.python,
        "packages": packages.packages,
        "Ray's authentication": health.authentication,
        "dead Ray clusters": health.dead_clusters,
        "DeepSpeed's builds": packages.deepspeed_builds,
        "GPUs and NCCL": packages.gpus,
        "shared memory": machine.shared_memory,
        "disk": lambda: machine.disk(folders),
        "ports": machine.ports,
        "write rights": lambda: machine.write_rights(options.runs, {"RAY_TMPDIR": scratch, "HF_HOME": hub}),
        "MLflow": lambda: services.mlflow(Tracker(options.runs, options.tracking_uri).uri),
        "hub": services.hub,
    }


def _record(name: str, each: Finding) -> dict[str, object]:
    return {"check": name, "good": each.good, "said": each.said, "todo": each.todo}
