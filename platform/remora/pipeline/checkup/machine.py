"""The machine itself: shared memory, disk, ports, write rights."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path

from remora.files.disk import nearest_there
from remora.pipeline.checkup.finding import Finding, found, trouble

OBJECT_STORE = 0.3
"""The share of a machine's memory that Ray takes for its object store, below /dev/shm."""
LEAST_FREE, FULL = 5e9, 0.95
"""Bytes that a run needs at least, and how full a disk may be before Ray stops writing to it."""
PORTS = {
    8000: "remora serve; next: --port N",
    5000: "remora ui; next: --port N",
    8265: "Ray's dashboard and jobs; next: ray start --head --dashboard-port N",
    6379: "ray start --head; next: --port N",
}


def shared_memory(folder: Path = Path("/dev/shm"), memory: float | None = None) -> Finding:
    """Whether Ray's object store fits; otherwise Ray writes it to a disk. Docker gives 64 MB by default."""
    if not folder.is_dir():
        return found("this system has none")
    memory = memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk = os.statvfs(folder)
    free, wanted = disk.f_bavail * disk.f_frsize, OBJECT_STORE * memory
    said = f"{free / 1e9:.1f} GB free in {folder}, Ray takes up to {wanted / 1e9:.1f} GB"
    if free >= wanted:
        return found(said)
    return trouble(said, f"docker run --shm-size={wanted / 1e9:.0f}g, or an emptyDir of medium Memory in Kubernetes")


def disk(folders: Mapping[str, Path]) -> Finding:
    """Whether there is room; the folders by what is written there."""
    said, full = [], []
    for what, folder in folders.items():
        room = shutil.disk_usage(nearest_there(folder))
        said.append(f"{what} {room.free / 1e9:.1f} GB free")
        if room.free < LEAST_FREE or room.used / room.total > FULL:
            full.append(f"{folder} ({room.free / 1e9:.1f} GB, {room.used / room.total:.0%} full)")
    if not full:
        return found(", ".join(said))
    return trouble(
        f"little room: {', '.join(full)}", "remora runs gc; or another disk: --runs DIR, RAY_TMPDIR, HF_HOME"
    )


def ports(wanted: Mapping[int, str] = PORTS, host: str = "127.0.0.1") -> Finding:
    """Whether the ports that commands take by default are free."""
    taken = [port for port in wanted if _listens(host, port)]
    if not taken:
        return found(f"{', '.join(map(str, wanted))} are free")
    uses = "; ".join(f"{port} is what {wanted[port]}" for port in taken)
    return trouble(f"in use: {', '.join(map(str, taken))}", uses)


def write_rights(runs: Path, others: Mapping[str, Path]) -> Finding:
    """Whether the run folder takes files, hard links and locks; and the other folders files."""
    problems = [problem] if (problem := _problem(runs)) else []
    for name, folder in others.items():
        if not os.access(nearest_there(folder), os.W_OK | os.X_OK):
            problems.append(f"{name} {folder} is not writable")
    if problems:
        return trouble("; ".join(problems), "chown or chmod it, or choose another: --runs DIR, HF_HOME, RAY_TMPDIR")
    return found(", ".join(["run folder", *others]) + " can be written")


def _problem(runs: Path) -> str:
    """Why the run folder cannot be used; empty if it can. One that is not there yet is not made."""
    folder = nearest_there(runs)
    if folder != runs:
        return "" if os.access(folder, os.W_OK | os.X_OK) else f"{runs} is not there, and {folder} is not writable"
    probe = folder / f".doctor-{uuid.uuid4().hex[:8]}"
    link = probe.with_suffix(".link")
    try:
        probe.write_bytes(b"\0" * 4096)
        with probe.open("a") as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.link(probe, link)
    except OSError as e:
        return f"{runs}: {e.strerror or e}"
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk there is nothing to delete
            probe.unlink(missing_ok=True)
            link.unlink(missing_ok=True)
    return ""


def _listens(host: str, port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(1.0)
        return s.connect_ex((host, port)) == 0
