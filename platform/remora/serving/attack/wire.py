"""The endpoint under attack: requests by httpx, and bytes that no HTTP library would send by a socket."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from remora.errors import ServingError
from remora.serving.client import authorization

CHAT = "/v1/chat/completions"
REQUEST_S = 15.0
"""Seconds in which any request is answered, however hostile."""
SILENCE_S = 1.0
"""Seconds for which half a request waits for an answer."""
EVENTS = "text/event-stream"
LONGEST = 2**20
"""Bytes of an answer that are read."""


@dataclass(frozen=True)
class Came:
    """What came back."""

    status: int | None
    """None: no answer; `why` says how it ended."""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    why: str = ""

    @property
    def short(self) -> str:
        return self.why if self.status is None else str(self.status)


@dataclass
class Attacked:
    """The endpoint at `url`, with or without /v1."""

    url: str
    key: str | None = None
    """Default: that of the environment (REMORA_KEY)."""
    end: float = float("inf")
    """When the attack's budget is spent, by time.monotonic()."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url.rstrip("/").removesuffix("/v1"))
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.username is not None:
            raise ServingError(f"{self.url[:80]!r} is no endpoint; expected http://HOST:PORT")
        self.host, self.tls = parts.hostname, parts.scheme == "https"
        self.port = port or (443 if self.tls else 80)
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.base = f"{parts.scheme}://{shown}:{self.port}"
        self.authority = f"{shown}:{self.port}"
        self.authorization = authorization(self.key)

    @property
    def seconds(self) -> float:
        """The time that a request has: until the budget ends, but some in any case."""
        return min(REQUEST_S, max(5.0, self.end - time.monotonic()))

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Came:
        """One request with the key. Of an answer that is streamed only the beginning is read: it may be a long one."""
        told = {**self.authorization, **(headers or {})}
        try:
            with (
                httpx.Client(trust_env=False, timeout=self.seconds) as client,
                client.stream(method, f"{self.base}{path}", content=body or None, headers=told) as response,
            ):
                found = bytearray()
                for piece in response.iter_bytes():
                    found += piece
                    if len(found) > LONGEST or response.headers.get("content-type", "").startswith(EVENTS):
                        break
                return Came(response.status_code, bytes(found), dict(response.headers))
        except httpx.TimeoutException:
            return Came(None, why="timeout")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as e:
            return Came(None, why=f"closed ({type(e).__name__})")

    def post(self, body: bytes, **headers: str) -> Came:
        """A chat request with this body."""
        return self.ask("POST", CHAT, body, {"content-type": "application/json", **headers})

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A connection.

        Raises:
            OSError: there is none.
        """
        with socket.create_connection((self.host, self.port), timeout=self.seconds) as plain:
            if not self.tls:
                yield plain
                return
            with ssl.create_default_context().wrap_socket(plain, server_hostname=self.host) as wrapped:
                yield wrapped

    def said(self, data: bytes, whole: bool = True) -> Came:
        """What comes back on a connection that sends these bytes. If they are no `whole` request, the connection's end
        is told after a silence; servers take that end as a client that went, so others wait for their answer."""
        found = bytearray()
        try:
            with self.connected() as raw:
                with contextlib.suppress(ConnectionError):  # refused while it was sent
                    raw.sendall(data)
                if not whole and not select.select([raw], [], [], SILENCE_S)[0]:
                    with contextlib.suppress(OSError):
                        raw.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    while len(found) < LONGEST and (received := raw.recv(65536)):
                        found += received
        except TimeoutError:
            return Came(None, why="timeout")
        except OSError as e:
            return Came(None, why=f"closed ({type(e).__name__})")
        return parsed(bytes(found))

    def head(self, *lines: str, method: str = "POST", path: str = CHAT, keyed: bool = True) -> bytes:
        """The head of a request, of which nothing is checked."""
        key = [f"{name}: {value}" for name, value in self.authorization.items()] if keyed else []
        start = [f"{method} {path} HTTP/1.1", f"Host: {self.authority}", "Connection: close"]
        return "\r\n".join([*start, *key, *lines, "", ""]).encode("latin-1")


def parsed(data: bytes) -> Came:
    """The first answer of a connection that was read to its end."""
    if not data:
        return Came(None, why="closed")
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if not first.startswith("HTTP/1.") or len(words) < 2 or not words[1].isdecimal():
        return Came(None, data, why="no HTTP")
    pairs = (line.partition(":") for line in lines)
    told = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = told.get("content-length", "")
    return Came(int(words[1]), body[: int(length)] if length.isdecimal() else body, told)


def leave(raw: socket.socket) -> None:
    """Have a socket's close be a reset, as of a client that died."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def question(content: object, **settings: object) -> bytes:
    """The body of a chat request with one message; a few tokens are enough of an answer."""
    messages = [{"role": "user", "content": content}]
    return json.dumps({"messages": messages, "max_tokens": 4, "temperature": 0, **settings}).encode()


def shown(url: str) -> bytes:
    """The body of a question about a picture by its URL."""
    return question([{"type": "image_url", "image_url": {"url": url}}, "what?"])
