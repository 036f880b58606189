"""Ray, for `remora doctor`: authentication, what dead clusters left on this machine, whether nodes fit together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from remora.cluster.session import ray_session, token_file
from remora.cluster.watch import alive
from remora.errors import RemoraError, first_line, several
from remora.files.disk import size_of
from remora.pipeline.checkup.finding import Finding, found, trouble
from remora.training.environment import code_digest

MODES = ("token", "k8s", "disabled")
MUCH = 2e9
"""Bytes of dead clusters' files above which they are reported."""
SKEW = 1.0
"""Seconds by which the clocks of two nodes may differ: journals of several machines are put in order by time."""
NODES = 30.0
"""Seconds that the nodes have to answer."""


def authentication(env: Mapping[str, str] = os.environ, home: Path | None = None) -> Finding:
    """RAY_AUTH_MODE and the token. A cluster that wants a token answers 401 without one."""
    mode = env.get("RAY_AUTH_MODE", "").lower()
    if mode and mode not in MODES:
        return trouble(f"RAY_AUTH_MODE is {mode!r}", f"one of {', '.join(MODES)}")
    file = token_file(env, home)
    if env.get("RAY_AUTH_TOKEN_PATH") and not file.is_file() and not env.get("RAY_AUTH_TOKEN"):
        return trouble(f"RAY_AUTH_TOKEN_PATH names {file}, which is not there", "the cluster's token, in that file")
    token = bool(env.get("RAY_AUTH_TOKEN")) or file.is_file()
    if mode == "token" and not token:
        return trouble(
            "RAY_AUTH_MODE=token, and there is no token", f"the cluster's token in {file}, or RAY_AUTH_TOKEN"
        )
    if file.is_file() and file.stat().st_mode & 0o077:
        return trouble(f"others can read the token in {file}", f"chmod 600 {file}")
    if not mode:
        kept = "a token is there, and is used" if token else "no token"
        return found(f"RAY_AUTH_MODE is not set: {kept}; clusters of our own on this machine use none")
    return found(f"RAY_AUTH_MODE={mode}" + (", with a token" if token else ""))


def dead_clusters(root: Path | None = None, commands: Mapping[int, str] | None = None) -> Finding:
    """What clusters that are gone left here. `ray_current_cluster` makes every `ray.init()` without an address wait for
    a cluster that does not answer.

    Args:
        commands: Process id -> its command line, of all that live.
    """
    root = root or Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"
    commands = _commands() if commands is None else commands
    said, todo = [], []
    pointer = root / "ray_current_cluster"
    if pointer.is_file() and (address := pointer.read_text().strip()) and not alive(address):
        said.append(f"{pointer} names {address}, where nothing listens")
        todo.append(f"rm {pointer}")
    if orphans := [pid for pid, command in commands.items() if _orphaned(command)]:
        said.append(f"{len(orphans)} processes of clusters whose head is gone")
        todo.append(f"kill {' '.join(map(str, sorted(orphans)))}")
    living = "\0".join(commands.values())
    dead = [p for p in root.glob("session_2*") if p.is_dir() and not p.is_symlink() and p.name not in living]
    size = size_of(dead).bytes
    if size > MUCH:
        said.append(f"{size / 1e9:.1f} GB of {len(dead)} clusters that ended")
        todo.append("rm -r " + " ".join(str(p) for p in dead[:3]) + (" …" if len(dead) > 3 else ""))
    if said:
        return trouble("; ".join(said), "; ".join(todo))
    return found(f"no leftovers in {root}" + (f" ({len(dead)} old logs, {size / 1e6:.0f} MB)" if dead else ""))


def _commands() -> dict[int, str]:
    """Of this machine's processes, where there is /proc."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


def _orphaned(command: str) -> bool:
    """Whether it is a raylet whose head does not listen."""
    words = command.split()
    if not words or Path(words[0]).name != "raylet":
        return False
    addresses = [word.partition("=")[2] for word in words if word.startswith("--gcs-address=")]
    return bool(addresses) and not alive(addresses[0], slow=True)


@dataclass(frozen=True)
class NodeFacts:
    """What a node said."""

    node: str
    """Its address."""
    ahead: float
    """Seconds that its clock is ahead of this process's."""
    code: str
    """Digest of the Remora that it has; empty if none is installed."""
    sees: bool
    """Whether the run folder is there."""


def nodes(address: str, runs: Path) -> Finding:
    """Whether the nodes of a cluster have the same time and the same Remora, and see the run folder."""
    try:
        with ray_session(address):
            from ray.exceptions import RayError

            try:
                facts = list(_asked(runs))
            except RayError as e:  # one that is lost just now, or has no time to answer
                return trouble(f"a node does not answer: {first_line(e)}", f"ray status --address {address}")
    except RemoraError as e:
        return trouble(str(e).partition(";")[0], str(e).partition("; ")[2])
    return judged_nodes(facts, code_digest(), runs)


def judged_nodes(facts: Sequence[NodeFacts], code: str, runs: Path) -> Finding:
    """The finding of `nodes`."""
    if not facts:
        return trouble("no node answered", "ray status")
    middle = median(f.ahead for f in facts)
    off = [f"{f.node} by {f.ahead - middle:+.1f} s" for f in facts if abs(f.ahead - middle) > SKEW]
    if off:
        return trouble(f"clocks differ: {', '.join(off)}", "chrony or ntpd on every node: timedatectl set-ntp true")
    if other := [f.node for f in facts if f.code != code]:
        return trouble(f"another Remora, or none: {', '.join(other)}", "the same version on every node")
    if blind := [f.node for f in facts if not f.sees]:
        return trouble(f"{runs} is not there: {', '.join(blind)}", "mount it at the same path on every node")
    widest = max(f.ahead for f in facts) - min(f.ahead for f in facts)
    return found(f"{several(len(facts), 'node')}, clocks within {widest:.2f} s, the same Remora, all see {runs}")


def _asked(runs: Path) -> Iterator[NodeFacts]:
    """Each living node's facts. A node without room for a task is asked nonetheless: the task takes no CPU."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    end = time.monotonic() + NODES
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(_about).options(num_cpus=0, scheduling_strategy=where)
        ray.get(task.remote(str(runs)), timeout=max(1.0, end - time.monotonic()))  # its process has started now
        sent = time.time()
        there, code, sees = ray.get(task.remote(str(runs)), timeout=max(1.0, end - time.monotonic()))
        yield NodeFacts(node["NodeManagerAddress"], there - (sent + time.time()) / 2, code, sees)


def _about(runs: str) -> tuple[float, str, bool]:
    """(The time, the digest of Remora, whether the folder is there), where this runs."""
    now = time.time()
    try:
        from remora.training.environment import code_digest as digest_here

        code = digest_here()
    except ImportError:
        code = ""
    return now, code, Path(runs).is_dir()
