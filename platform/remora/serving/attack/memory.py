"""Resident memory of the endpoint's processes, where they are on this machine and psutil is installed."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

RAY = ("ray::ServeReplica", "ray::ProxyActor")
READS_PICTURES = "remora.serving.picture_worker"
"""A picture may end it, and another takes its place. So it counts as part of the process that started it."""


def resident(port: int) -> dict[int, int] | None:
    """Bytes of memory by process: of those listening on `port`, Serve's replicas, and the children of both. None:
    unknown."""
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
            _add(found, process)
        except psutil.Error:
            continue
    if serves:  # the proxy listens; replicas are children of Ray's, not of the proxy
        for process in psutil.process_iter():
            try:
                if _title(process).startswith(RAY):
                    _add(found, process)
            except psutil.Error:
                continue
    return found or None


def _title(process: psutil.Process) -> str:
    return "".join(process.cmdline()[:1])


def _add(found: dict[int, int], process: psutil.Process) -> None:
    """A process and its descendants.

    Raises:
        psutil.Error: it ended.
    """
    import psutil

    found[process.pid] = process.memory_info().rss
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            own = READS_PICTURES not in child.cmdline()
            at = child.pid if own else process.pid
            found[at] = found.get(at, 0) + child.memory_info().rss
