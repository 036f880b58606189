"""A Ray cluster to work on: the one that an address names, or one of our own that ends with this process."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remora.cluster.watch import OWN_PATIENCE, RECONNECT, alive, patience, watched
from remora.errors import ClusterError
from remora.pipeline.executor import ENVIRONMENT

WORKER_ENV = {
    # Ray's defaults answer a failure in seconds to minutes; these are what recovery time is made of.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # A worker that answers nothing for so long is stopped (SIGSTOP, a stuck driver), and its group starts again.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "30",
    # Ray waits so long for room of the size it last knew, then looks again: what an elastic group loses with a node.
    # Imports are not part of it, and it may look as often as it likes.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # A worker that asked for no GPU sees none. Ray 2.60 leaves it all of its node's, and torch and DeepSpeed take them.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    **ENVIRONMENT,
}
LONGEST_ROOT = 107 - len("/ray/session_2026-11-29_20-15-00_123456_4194304/sockets/plasma_store_1")
"""Bytes of the folder that Ray makes its own in: a Unix socket's path has at most 107."""


def _address(given: str | None) -> str | None:
    """The cluster to join. Inside `ray job submit` Ray sets RAY_ADDRESS itself."""
    return given or os.environ.get("RAY_ADDRESS") or None


@contextlib.contextmanager
def ray_session(
    address: str | None = None, env: dict[str, str] | None = None, dashboard: bool = True
) -> Iterator[None]:
    """Connect to a cluster for the length of the block.

    With an address (or RAY_ADDRESS) the cluster is joined and left as it was; otherwise one is started on this machine
    and stopped at the end. `env` is added to the environment of every worker. `dashboard` costs a cluster of our own
    1 GB, and nothing here needs it.

    Raises:
        ClusterError: nothing answers at the address, or Ray does not start here.
    """
    where = _address(address)
    env = WORKER_ENV | (env or {})
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if where is None:
        _make_room()
        # Auth needs saying: on a machine of one user whose cluster listens on loopback it only breaks clients.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        os.environ.update({k: os.environ.get(k, v) for k, v in env.items()})
        # One machine is not preempted; the watcher is one more process for every group of workers.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # A process that has answered one benchmark has torch and transformers loaded, which costs 8 s on two cores: it
        # is kept for the next variant's.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
        os.environ.setdefault(RECONNECT, f"{OWN_PATIENCE:g}")
        # Nobody listens there. Ray Train asks it whether a controller is alive, and would ask whichever cluster this
        # machine started last, which does not know ours and so frees its workers (cleaner.py).
        os.environ.setdefault("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
        options |= {"address": "local", "include_dashboard": dashboard}
    else:
        _check_address(where)
        options |= {"address": where, "runtime_env": {"env_vars": env}}
    import ray

    try:
        ray.init(**options)
    except Exception as e:  # a node that is slow to start is a plain Exception
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        if where is None:
            logs = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "session_latest", "logs")
            raise ClusterError(
                f"Ray did not start on this machine: {reason}; next: the same command again when the machine is less "
                f"busy, or look into {logs}"
            ) from e
        raise ClusterError(_nothing_at(where, reason)) from e
    try:
        with watched(_processes(where)):
            yield
    finally:
        ray.shutdown()


def _processes(where: str | None) -> dict[str, tuple[str, float]]:
    """What this process cannot do without, for `watched`. A client of `ray://` has neither; Ray tells it."""
    import ray

    if where and where.startswith("ray://"):
        return {}
    me = ray.get_runtime_context()
    found = {"Ray's head process (GCS)": (me.gcs_address, 3.0 if where is None else patience())}
    for node in ray.nodes():
        if node["NodeID"] == me.get_node_id():
            place = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
            found["Ray's process on this machine (raylet)"] = (place, 1.0)
    return found


def _make_room() -> None:
    """See to a folder that Ray's processes can meet in: `RAY_TMPDIR`, `TMPDIR` or /tmp.

    Raises:
        ClusterError: it cannot be written, or its name is too long for a socket.
    """
    name, root = next(
        ((k, v) for k in ("RAY_TMPDIR", "TMPDIR") if (v := os.environ.get(k))), ("RAY_TMPDIR's default", "/tmp")
    )
    if len(os.fsencode(root)) > LONGEST_ROOT and name == "TMPDIR":
        # Chosen for other things, and Ray takes it for its own: the sockets alone need a short name.
        name, root = "RAY_TMPDIR", "/tmp"
        os.environ[name] = root
    if len(os.fsencode(root)) > LONGEST_ROOT:
        raise ClusterError(
            f"Ray keeps its sockets in {name}, whose name may have {LONGEST_ROOT} bytes and has "
            f"{len(os.fsencode(root))}: {root}; next: RAY_TMPDIR=/tmp"
        )
    try:
        made = Path(root, "ray")
        made.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=made):
            pass
    except OSError as e:
        raise ClusterError(
            f"Ray keeps its sockets and logs in {root}/ray ({name}), which cannot be written: {e.strerror}; "
            "next: RAY_TMPDIR=DIR, a folder of a short name"
        ) from e


def _check_address(where: str) -> None:
    """Refuse what cannot be joined, at once: `ray.init` would wait for half a minute, or for ever.

    Raises:
        ClusterError: it is no address, or nothing listens there.
    """
    if where.startswith(("http://", "https://")):
        raise ClusterError(
            f"{where} takes jobs and cannot be joined; next: ray job submit --address {where} --working-dir . -- "
            "python jobs/train.py SPEC, or give the address that `ray start --head` prints (host:6379)"
        )
    if where in ("auto", "local"):
        return
    place = re.fullmatch(r"(?:ray://)?(\[[^]]+\]|[^/:]+):(\d{1,5})", where)
    if not place or not 0 < int(place[2]) < 2**16:
        raise ClusterError(
            f"the address of a Ray cluster is host:port, ray://host:port or auto; found {where!r}; next: the address "
            "that `ray start --head` prints (host:6379), or leave out --address and RAY_ADDRESS"
        )
    if not alive(where.removeprefix("ray://")):
        raise ClusterError(_nothing_at(where, "nothing listens there"))


def _nothing_at(where: str, reason: str) -> str:
    return (
        f"no Ray cluster at {where}: {reason}; start one with `ray start --head`, "
        "or leave out --address and RAY_ADDRESS to use a cluster of your own"
    )


def cpus_and_gpus() -> tuple[float, float]:
    """What the cluster has in all."""
    import ray

    have = ray.cluster_resources()
    return have.get("CPU", 0.0), have.get("GPU", 0.0)
