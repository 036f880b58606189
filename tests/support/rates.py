"""A search of a few rates that trains in seconds: its space, and the command that runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from support.colours import write_colours
from support.tiny import write_records

STEPS = 9
"""Of the last stage."""
EVERY = 2
"""Steps between checkpoints."""
RATES = [1.0e-3, 2.0e-3, 4.0e-3]


def write_space(root: Path, file: str = "space.yaml", validate: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A space of three rates, of which halving lets one come to its end; with these keys in place of its own, and
    these of the last stage's validation besides. Writes the data that it reads, unless it is there."""
    if not (root / "train.json").exists():
        write_records(root, count=24, images=".")
        write_records(root, "words.json", count=12, pictures=False)
    colours = str(write_colours(root))
    validated = {"share": 0.2, "every": 1.0, "limit": 4} | (validate or {})
    stage = {"steps": 2, "batch": 4, "lr": 1e-3, "mixture": [{"path": str(root / "train.json")}]}
    space = {
        "name": "rates",
        "vision": ["efficientnet-lite0"],
        "connector": ["mlp2x_gelu"],
        "llm": ["demo-2m"],
        "recipe": ["base"],
        "overrides": {
            "language": stage | {"mixture": [{"path": str(root / "words.json")}]},
            "align": stage,
            "finetune": stage | {"steps": STEPS, "validate": validated},
        },
        "axes": {"finetune.lr": RATES},
        "rule": {"kind": "halving", "eta": 3, "first": 0.3333},
        "cluster": {"workers": 1, "micro_batch": 4, "checkpoint_every": EVERY},
        "benchmarks": [colours],
        "champion": {"benchmark": colours},
    }
    (root / file).write_text(yaml.safe_dump(space | changes))
    return root / file


def start(
    space: Path, runs: str = "r", verb: str = "search", env: dict[str, str] | None = None, where: str = "--local"
) -> subprocess.Popen[str]:
    """`remora search --local` of that file, in a folder beside it; with an empty `where`, on a Ray of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_"))}
    own = kept | {"HOME": str(space.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "remora", verb, str(space), "--runs", str(space.parent / runs)]
    command += [where] if where else []
    return subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(space: Path, runs: str = "r", verb: str = "search", rc: int = 0, where: str = "--local") -> str:
    """What it printed."""
    process = start(space, runs, verb, where=where)
    said, _ = process.communicate()
    assert process.returncode == rc, said
    return said
