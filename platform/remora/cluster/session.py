"""A Ray cluster to work on: the one at an address, or a local one that ends with this process."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from remora.cluster.watch import OWN_PATIENCE, RECONNECT, alive, patience, watched
from remora.errors import ClusterError
from remora.pipeline.executor import ENVIRONMENT

WORKER_ENV = {
    # Ray's defaults react to a failure in seconds to minutes; these settings decide the recovery time.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # A worker that does not respond for this long (SIGSTOP, a stuck driver) is killed, and its group restarts.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "30",
    # Ray waits this long for resources of the last known size, then checks again: a lost node costs this.
    # Imports do not count, and it may check often.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # A worker that asks for no GPU sees none. Ray 2.60 shows it all of its node's, and torch and DeepSpeed take them.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    **ENVIRONMENT,
}
LONGEST_ROOT = 107 - len("/ray/session_2026-11-29_20-15-00_123456_4194304/sockets/plasma_store_1")
"""Bytes of the folder in which Ray makes its own: a Unix socket's path has at most 107."""


def token_file(env: Mapping[str, str] = os.environ, home: Path | None = None) -> Path:
    """Where Ray looks for a cluster's token, unless RAY_AUTH_TOKEN has it."""
    return Path(env.get("RAY_AUTH_TOKEN_PATH") or (home or Path.home()) / ".ray" / "auth_token")


def _address(given: str | None) -> str | None:
    """The cluster to join. Inside `ray job submit` Ray sets RAY_ADDRESS itself."""
    return given or os.environ.get("RAY_ADDRESS") or None


@contextlib.contextmanager
def ray_session(
    address: str | None = None, env: dict[str, str] | None = None, dashboard: bool = True
) -> Iterator[None]:
    """Connect to a cluster for the length of the block.

    With an address (or RAY_ADDRESS) the cluster is joined and left running; otherwise one is started on this machine
    and stopped at the end. `env` is added to the environment of every worker. `dashboard` costs a local cluster 1 GB,
    and nothing here needs it.

    Raises:
        ClusterError: nothing answers at the address, or Ray does not start here.
    """
    where = _address(address)
    env = WORKER_ENV | (env or {})
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if where is None:
        _make_room()
        # Authentication is off: for a cluster on loopback, on a machine with one user, it only breaks clients.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        os.environ.update({k: os.environ.get(k, v) for k, v in env.items()})
        # One machine is not preempted; the watcher is one more process for every group of workers.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # A process that has answered one benchmark has torch and transformers loaded, which costs 8 s on two cores: it
        # is kept for the next variant.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
        os.environ.setdefault(RECONNECT, f"{OWN_PATIENCE:g}")
        # No service listens there. Ray Train asks this address whether a controller is alive. It would ask the cluster
        # started last on this machine, which does not know the controller, and free its workers (cleaner.py).
        os.environ.setdefault("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
        options |= {"address": "local", "include_dashboard": dashboard}
    else:
        _check_address(where)
        options |= {"address": where, "runtime_env": {"env_vars": env}}
    import ray

    try:
        ray.init(**options)
    except Exception as e:  # a node that is slow to start raises a plain Exception
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        if where is None:
            logs = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "session_latest", "logs")
            raise ClusterError(
                f"Ray did not start on this machine: {reason}; next: run the command again when the machine is less "
                f"busy, or look into {logs}"
            ) from e
        raise ClusterError(_nothing_at(where, reason)) from e
    try:
        with watched(_processes(where)):
            yield
    finally:
        ray.shutdown()


def check_one_node(url: str, where: str | None) -> None:
    """A group of workers shares its command's node folder, so it cannot span nodes where the run folder is a URL.

    Raises:
        ClusterError: the cluster has several nodes, or is not this machine's.
    """
    import ray

    nodes = sum(node["Alive"] for node in ray.nodes())
    if nodes > 1 or (where or "").startswith("ray://"):
        raise ClusterError(
            f"the run folder is {url}, so the workers of a command train on its own node, and this Ray cluster is of "
            f"{nodes} nodes or elsewhere; next: the same command on each node, without --address: they share the work"
        )


def _processes(where: str | None) -> dict[str, tuple[str, float]]:
    """The processes this one depends on, for `watched`. A `ray://` client has none; Ray reports its failures."""
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
    """Set up a folder for Ray's sockets: `RAY_TMPDIR`, `TMPDIR` or /tmp.

    Raises:
        ClusterError: it cannot be written, or its name is too long for a socket.
    """
    name, root = next(
        ((k, v) for k in ("RAY_TMPDIR", "TMPDIR") if (v := os.environ.get(k))), ("RAY_TMPDIR's default", "/tmp")
    )
    if len(os.fsencode(root)) > LONGEST_ROOT and name == "TMPDIR":
        # TMPDIR is the user's choice for other programs; only Ray's sockets need a short path.
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
    """Refuse an address that cannot be joined at once: `ray.init` would wait for half a minute, or forever.

    Raises:
        ClusterError: it is not an address, or nothing listens there.
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
        "or leave out --address and RAY_ADDRESS to start one on this machine"
    )


def kinds_of_gpus() -> list[str]:
    """The cluster's kinds of GPU, by Ray's names (H100, A100-80G, L4)."""
    import ray

    prefix = "accelerator_type:"
    return sorted(name.removeprefix(prefix) for name in ray.cluster_resources() if name.startswith(prefix))


def cpus_and_gpus() -> tuple[float, float]:
    """The cluster's total CPUs and GPUs."""
    import ray

    have = ray.cluster_resources()
    return have.get("CPU", 0.0), have.get("GPU", 0.0)
