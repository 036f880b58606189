"""A local image store that misbehaves on command, made with http.server."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


def png(colour: tuple[int, int, int] = (200, 30, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


class Store(ThreadingHTTPServer):
    """Serves `files` (path -> bytes), after what `script` says of a path: one word a request, then normally.

    A word is an HTTP status; `hang`: no answer until the store closes; `half`: half of the bytes that were announced;
    `drop`: the connection is closed without a word. `/x?whole` knows no ranges.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.script: dict[str, list[str]] = {}
        self.asked: list[tuple[str, int]] = []
        """(path, port of the asker) of every request."""
        self.closing = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what the tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    server: Store

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.client_address[1]))
        path = self.path.removesuffix("?whole")
        script = self.server.script.get(path, [])
        word = script.pop(0) if script else "serve" if path in self.server.files else "404"
        content = self.server.files.get(path, b"")
        if word == "hang":
            self.server.closing.wait()
            self.close_connection = True
        elif word == "drop":
            self.close_connection = True
        elif word == "half":
            self._answer(200, content[: len(content) // 2], len(content))
            self.close_connection = True
        elif word != "serve":
            self._answer(int(word), b"")
        elif (span := self.headers.get("Range")) and not self.path.endswith("?whole"):
            first, last = span.removeprefix("bytes=").split("-")
            self._answer(206, content[int(first) : int(last) + 1])
        else:
            self._answer(200, content)

    def _answer(self, status: int, content: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def store() -> Iterator[Store]:
    with Store() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
