"""Start the ranks of a script as torchrun would, without torchrun's own four seconds and without its nine of imports.

Ranks are forked from a process that has imported what they need and done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

from support.ports import free_port

IMPORTED = "support.warm_ranks"
"""The module that says what ranks find imported."""


def launch(
    script: Path, world: int, *args: object, rc: int = 0, env: Mapping[str, str] | None = None, fresh: bool = False
) -> str:
    """Run `script` on `world` local ranks, each of which must exit with `rc`; returns rank 0's output.

    `fresh` ranks are new processes instead of forks, to test imports or memory.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", **(env or {})}
    each = [shared | {"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(world)} for r in range(world)]
    command = [str(script), *map(str, args)]
    codes, said = _fresh(command, each) if fresh else _forked(command, each)
    assert codes == [rc] * world, "\n".join([f"ranks ended with {codes}", *(s[-3000:] for s in said)])
    return said[0]


def _fresh(command: list[str], each: list[dict[str, str]]) -> tuple[list[int], list[str]]:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", *command],
            env=os.environ | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for env in each
    ]
    said = [p.communicate()[0] for p in ranks]
    return [p.returncode for p in ranks], said


def _forked(command: list[str], each: list[dict[str, str]]) -> tuple[list[int], list[str]]:
    _warm()
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / env["RANK"] for env in each]
        ranks = [
            context.Process(target=_rank, args=(command, dict(os.environ) | env, file))
            for env, file in zip(each, files, strict=True)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        return [rank.exitcode or 0 for rank in ranks], [file.read_text() for file in files]


@cache
def _warm() -> None:
    """Start the process that ranks are forked from. Python 3.11 tells it nothing of sys.path, and it keeps quiet about
    what it could not import."""
    forkserver.set_forkserver_preload([IMPORTED])
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), OMP_NUM_THREADS="1"):
        forkserver.ensure_running()


def _rank(command: list[str], env: dict[str, str], said: Path) -> None:
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(env)
    warnings.simplefilter("ignore")
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")
