"""An application behind uvicorn, with the proxy's HTTP parser, on a free port of loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from support.waiting import until


@contextmanager
def listening(app: ASGIApp) -> Iterator[int]:
    """The port that it answers on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        config = uvicorn.Config(app, log_level="critical", lifespan="off", http="h11")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [free]})
        thread.start()
        try:
            until("the server", lambda: server.started)
            yield int(free.getsockname()[1])
        finally:
            server.should_exit = server.force_exit = True
            thread.join(30)
