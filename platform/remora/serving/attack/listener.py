"""A listener on loopback that nobody has a reason to connect to; an endpoint that does was made to."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

from remora.serving.attack.pictures import saved


class Listener:
    """Counts connections and answers each with a picture, or at /redirect with the way to one."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.seen = 0

    def serve(self, listening: list[socket.socket], stop: threading.Event) -> None:
        with selectors.DefaultSelector() as ready:
            for one in listening:
                ready.register(one, selectors.EVENT_READ)
            while not stop.is_set():
                for found, _ in ready.select(0.05):
                    assert isinstance(found.fileobj, socket.socket)
                    with found.fileobj.accept()[0] as connection:
                        self.seen += 1
                        connection.settimeout(0.5)
                        with contextlib.suppress(OSError):
                            connection.sendall(self._answer(connection.recv(4096)))

    def _answer(self, asked: bytes) -> bytes:
        if b"/redirect" in asked:
            return f"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:{self.port}/a.png\r\n\r\n".encode()
        return b"HTTP/1.0 200 OK\r\nContent-Type: image/png\r\n\r\n" + saved("PNG")


@contextlib.contextmanager
def listener() -> Iterator[Listener]:
    """One that listens on every address of loopback, by IPv4 and where there is one by IPv6."""
    with contextlib.ExitStack() as open_ones:
        first = open_ones.enter_context(socket.create_server(("127.0.0.1", 0)))
        found = Listener(int(first.getsockname()[1]))
        listening = [first]
        for host, family in (("127.8.9.10", socket.AF_INET), ("::1", socket.AF_INET6)):
            with contextlib.suppress(OSError):  # macOS has 127.0.0.1 alone; a container may lack IPv6
                listening.append(open_ones.enter_context(socket.create_server((host, found.port), family=family)))
        stop = threading.Event()
        thread = threading.Thread(target=found.serve, args=(listening, stop), daemon=True)
        thread.start()
        try:
            yield found
        finally:
            stop.set()
            thread.join(5)
