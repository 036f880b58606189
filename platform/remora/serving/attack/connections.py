"""What no HTTP library sends: heads and bodies by bytes."""

from __future__ import annotations

import json
from collections.abc import Callable

from remora.serving.attack.bodies import HI

BODY = json.dumps({**HI, "max_tokens": 4}).encode()
HeadMaker = Callable[..., bytes]


def floods(head: HeadMaker) -> dict[str, bytes]:
    """Heads that are too much, for `head` that makes one (wire.Attacked.head)."""
    length = f"Content-Length: {len(BODY)}"
    return {
        "a thousand headers": head(*(f"X-{i}: y" for i in range(1000)), length) + BODY,
        "a long header": head("X: " + "y" * 1_000_000, length) + BODY,
        "a long path": head(method="GET", path="/" + "a" * 1_000_000),
        "a long request id": head("X-Request-Id: " + "a" * 10_000, length) + BODY,
    }


def lengths(head: HeadMaker) -> dict[str, bytes]:
    """Bodies whose length is not told, or told twice, or wrongly."""
    return {
        "no length": head() + BODY,
        "a negative length": head("Content-Length: -1") + BODY,
        "a length that is no number": head("Content-Length: 1e3") + BODY,
        "a length beyond all": head("Content-Length: " + "9" * 400) + BODY,
        "ten gigabytes announced": head("Content-Length: 10000000000") + BODY,
        "two lengths": head("Content-Length: 5", f"Content-Length: {len(BODY)}") + BODY,
        "length and chunks": head("Content-Length: 3", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        "a chunk of no size": head("Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n",
        "a chunk beyond all": head("Transfer-Encoding: chunked") + b"ffffffffffffffff\r\n{}\r\n",
        "an unknown coding": head("Transfer-Encoding: gzip") + BODY,
        "two requests, one smuggled": head("Content-Length: 0") + head(method="GET", path="/metrics"),
    }


def malformed(head: HeadMaker) -> dict[str, bytes]:
    """Heads of other protocols and of none."""
    length = f"Content-Length: {len(BODY)}"
    upgrade = ("Upgrade: websocket", "Connection: Upgrade")
    return {
        "letters beyond ascii": head("X-Request-Id: é\xff", length) + BODY,
        "letters beyond ascii, for Ray": head("X-Session-Id: \xff", "Serve_Multiplexed_Model_Id: \xff", length) + BODY,
        "letters beyond ascii, for traces": head("Traceparent: \xff", length) + BODY,
        "a folded header": head("X-Request-Id: a", " b: c", length) + BODY,
        "a nul in a header": head("X-Request-Id: a\x00b", length) + BODY,
        "no host": b"POST /v1/chat/completions HTTP/1.1\r\n\r\n",
        "no http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "http/9": b"GET /healthz HTTP/9.9\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "an unknown method": head(method="BREW", path="/healthz"),
        "a way out": head(method="GET", path="/../../etc/passwd"),
        "an escaped way out": head(method="GET", path="/%2e%2e/%2e%2e/etc/passwd%00"),
        "a bad escape": head(method="GET", path="/v1/models/%ff%zz"),
        "a url as path": head(method="GET", path="http://169.254.169.254/latest"),
        "an upgrade": head(*upgrade, "Sec-WebSocket-Key: eA==", method="GET", path="/"),
        "a websocket": head(
            *upgrade, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", method="GET"
        ),
        "nothing": b"",
    }


HIDDEN = ("/v1/models", "/version", "/metrics")
"""What only holders of a key read."""
DETOURS = (
    *HIDDEN,
    *("/v1/models/", "//v1/models", "/./v1/models", "/V1/MODELS", "/v1/models/remora", "/v1/models?x=/healthz"),
    *("/healthz/../v1/models", "/healthz/..%2fv1/models", "/healthz%2f..%2fv1%2fmodels", "/v1/models;/healthz"),
    *("/healthz%00/v1/models", "/-/routes", "/docs", "/openapi.json", "/v1/models%23/healthz"),
)
"""Ways to them, past a check that reads a path otherwise than the router does."""
