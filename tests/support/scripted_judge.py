"""A local judge: OpenAI's chat completions from a script, with the faults of real endpoints."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


class Fault(Exception):
    """Something else than a reply: a status with its headers and body, or a cut connection (status 0)."""

    def __init__(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.status, self.content, self.headers = status, content, headers


def completion(content: str | None) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


class ScriptedJudge(ThreadingHTTPServer):
    """`script` gives the reply to a request's body, or raises Fault. `seen` are the requests: path, headers, bytes."""

    daemon_threads = True

    def __init__(self, script: Callable[[Body], str | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.turn = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def bodies(self) -> list[Body]:
        return [json.loads(content) for _, _, content in self.seen]


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedJudge

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.turn:
            self.server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, raw))
            try:
                self._send(200, completion(self.server.script(json.loads(raw))), {})
            except Fault as fault:
                if fault.status:
                    self._send(fault.status, fault.content, fault.headers)
                else:
                    self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """The default prints every request."""


@contextlib.contextmanager
def scripted(script: Callable[[Body], str | None]) -> Iterator[ScriptedJudge]:
    with ScriptedJudge(script) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
