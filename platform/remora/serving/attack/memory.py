"""Resident memory of the endpoint's processes, where they are on this machine and psutil is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

RAY = ("ray::ServeReplica", "ray::ProxyActor")


def resident(port: int) -> dict[int, int] | None:
    """Bytes of memory by process: of those listening on `port`, their children and Serve's replicas. None: unknown."""
    if find_spec("psutil") is None:
        return None
    import psutil

    try:
        heard = {c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    except psutil.AccessDenied:
        return None
    found: dict[int, int] = {}
    serves = False
    for pid in heard - {None}:
        try:
            process = psutil.Process(pid)
            serves |= process.name().startswith("ray::") or _title(process).startswith("ray::")
            for one in (process, *process.children(recursive=True)):
                found[one.pid] = one.memory_info().rss
        except psutil.Error:
            continue
    if serves:  # the proxy listens; replicas are children of Ray's, not of the proxy
        for process in psutil.process_iter():
            try:
                if _title(process).startswith(RAY):
                    found[process.pid] = process.memory_info().rss
            except psutil.Error:
                continue
    return found or None


def _title(process: psutil.Process) -> str:
    return "".join(process.cmdline()[:1])
