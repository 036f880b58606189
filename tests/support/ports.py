"""A port that nothing listens on."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One of loopback's that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
