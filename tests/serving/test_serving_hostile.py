"""Hostile requests over a real connection, through the proxy's middleware: answered or refused, never a 5xx, and the
endpoint answers as before."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image, PngImagePlugin

from remora.serving.args import EndpointArgs, Limits
from remora.serving.front import Front
from support.serving_fake import CHAT, as_url, fake_api
from support.waiting import until

LIMITS = Limits(max_body_bytes=4 * 2**20, max_image_bytes=2**20)
HI = {"messages": [{"role": "user", "content": "hi"}]}


@contextmanager
def running() -> Iterator[int]:
    """The endpoint behind its middleware and the proxy's HTTP parser, on a free port."""
    app, _ = fake_api(EndpointArgs(limits=LIMITS))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(Front(app, body_s=5), log_level="critical", lifespan="off", http="h11")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until("the server", lambda: server.started)
            yield int(listening.getsockname()[1])
        finally:
            server.should_exit = server.force_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running() as port:
        yield port


@pytest.fixture(autouse=True)
def _it_answers_as_before(port: int) -> Iterator[None]:
    yield
    assert httpx.post(f"http://127.0.0.1:{port}{CHAT}", json=HI, timeout=60).status_code == 200
    assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=60).json()["status"] == "ok"


def post(port: int, content: bytes, **headers: str) -> httpx.Response:
    told = {"content-type": "application/json"} | headers
    return httpx.post(f"http://127.0.0.1:{port}{CHAT}", content=content, headers=told, timeout=60)


def refused(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    assert response.status_code in (statuses or (400,)), (response.status_code, response.text[:300])
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and len(response.text) < 2000
    told = error["message"]
    assert "\n" not in told and "0x" not in told and "Traceback" not in told and "site-packages" not in told
    return dict(error)


def shown(url: str) -> bytes:
    part = {"type": "image_url", "image_url": {"url": url}}
    return json.dumps({"messages": [{"role": "user", "content": [part, "what?"]}]}).encode()


def saved(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((24, 16), 90).convert("RGB").save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def text_bomb() -> bytes:
    """A PNG whose text unpacks to 200 MB."""
    png = saved("PNG")
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))
    return png[:33] + bomb + png[33:]


def icc_bomb() -> bytes:
    png = saved("PNG")
    return png[:33] + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000), 9)) + png[33:]


def text_chunks() -> bytes:
    made = PngImagePlugin.PngInfo()
    for i in range(5000):
        made.add_text(f"k{i}", "v" * 20)
    return saved("PNG", pnginfo=made)


def frames(kind: str) -> bytes:
    more = [Image.new("RGB", (24, 16), (i % 256, 0, 0)) for i in range(300)]
    return saved(kind, save_all=True, append_images=more)


GOOD = {
    "a png called jpeg": lambda: as_url(saved("PNG"), "jpeg"),
    "a jpeg called svg": lambda: as_url(saved("JPEG"), "svg+xml"),
    "an animated gif": lambda: as_url(frames("GIF"), "gif"),
    "an animated webp": lambda: as_url(frames("WEBP"), "webp"),
    "an animated png": lambda: as_url(frames("PNG")),
    "a page behind a png": lambda: as_url(saved("PNG") + b"<script>alert(1)</script>"),
    "an archive behind a jpeg": lambda: as_url(saved("JPEG") + b"PK\x03\x04" + bytes(100)),
    "many texts in a png": lambda: as_url(text_chunks()),
    "a text of 200 MB, which nobody unpacks": lambda: as_url(text_bomb()),
}
BAD = {
    "svg": lambda: as_url(b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>", "svg+xml"),
    "svg called png": lambda: as_url(
        b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><svg/>"
    ),
    "html": lambda: "data:text/html;base64,PGh0bWw+",
    "pdf": lambda: as_url(b"%PDF-1.7\n" + bytes(500)),
    "postscript": lambda: as_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "mp4": lambda: as_url(b"\0\0\0\x20ftypisom" + bytes(500)),
    "jpeg 2000": lambda: as_url(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(500)),
    "tiff": lambda: as_url(saved("TIFF")),
    "half a png": lambda: as_url(saved("PNG")[:-400]),
    "half a jpeg's header": lambda: as_url(saved("JPEG")[:30]),
    "half a gif": lambda: as_url(saved("GIF")[:60]),
    "half a webp": lambda: as_url(saved("WEBP")[:60]),
    "a png's magic alone": lambda: as_url(b"\x89PNG\r\n\x1a\n"),
    "nothing": lambda: as_url(b""),
    "one byte": lambda: as_url(b"\xff"),
    "zeros": lambda: as_url(bytes(100_000)),
    "a file's path": lambda: "file:///etc/passwd",
    "a path": lambda: "/etc/passwd",
    "metadata": lambda: "http://169.254.169.254/latest/meta-data/",
    "gopher": lambda: "gopher://127.0.0.1:6379/_FLUSHALL",
    "a long url": lambda: "https://example.org/" + "a" * 500_000,
    "a data url of data urls": lambda: as_url(as_url(saved("PNG")).encode()),
    "many options": lambda: "data:image/png" + ";a=b" * 50_000 + ",AAAA",
    "base64 of other letters": lambda: "data:image/png;base64," + "ＡＡＡＡ" * 100,
    "bytes that are too many": lambda: as_url(bytes(2**20 + 1)),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_a_picture_by_its_bytes_is_read(port: int, name: str) -> None:
    response = post(port, shown(GOOD[name]()))
    assert response.status_code == 200, response.text
    assert "24x16 RGB" in response.text


@pytest.mark.parametrize("name", BAD)
def test_what_is_none_is_refused(port: int, name: str) -> None:
    error = refused(post(port, shown(BAD[name]())))
    assert error["param"] == "messages" and "passwd" not in error["message"].replace(BAD[name]()[:40], "")


def test_a_profile_that_unpacks_to_much_is_not_unpacked(port: int) -> None:
    assert post(port, shown(as_url(icc_bomb()))).status_code in (200, 400)


DEEP = 100_000
JSON = {
    "deep lists": b'{"messages":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"messages":[' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"]}",
    "deep in an unknown field": b'{"messages":[{"role":"user","content":"hi"}],"metadata":'
    + b'{"a":' * 300
    + b"1"
    + b"}" * 301,
    "duplicate keys": b'{"messages":[],"messages":[{"role":"user","role":"robot","content":"a","content":"hi"}]}',
    "a number without end": b'{"messages":[1],"seed":' + b"9" * 100_000 + b"}",
    "a float without end": b'{"messages":[1],"temperature":1e999999}',
    "nan": b'{"messages":[1],"temperature":NaN}',
    "infinity": b'{"messages":[1],"temperature":-Infinity}',
    "half a surrogate": b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    "a nul": b'{"messages":[{"role":"user","content":"a\x00b"}]}',
    "utf-16": json.dumps(HI).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(HI).encode(),
    "gzip's magic": b"\x1f\x8b\x08\x00" + bytes(50),
    "half of it": json.dumps(HI).encode()[:-3],
    "more behind it": json.dumps(HI).encode() * 2,
    "a string": b'"' + b"a" * 1_000_000 + b'"',
    "null": b"null",
    "keys without end": b"{" + b",".join(b'"k%d":1' % i for i in range(100_000)) + b"}",
    "a long key": b'{"' + b"k" * 1_000_000 + b'":1,"messages":[{"role":"user","content":"hi"}]}',
    "dunder keys": b'{"__class__":{"__init__":1},"messages":[{"role":"user","content":"hi"}]}',
    "a long role": b'{"messages":[{"role":"' + b"r" * 1_000_000 + b'","content":"hi"}]}',
    "a long type": b'{"messages":[{"role":"user","content":[{"type":"' + b"t" * 1_000_000 + b'"}]}]}',
    "too long a text": b'{"messages":[{"role":"user","content":"' + b"a" * 1_000_000 + b'"}]}',
    "nothing": b"",
}


@pytest.mark.parametrize("name", JSON)
def test_json_of_any_kind_is_refused_in_one_line(port: int, name: str) -> None:
    refused(post(port, JSON[name]))


@pytest.mark.parametrize(
    "text",
    [
        "<image>",
        "<|endoftext|><s></s>[INST]",
        "\u202e\u0000\x1b[31m\x07",
        "a" * 30_000,
        "\n" * 30_000,
        "😀" * 5_000,
        "é̀" * 5_000,
    ],
)
def test_texts_of_any_kind_are_texts(port: int, text: str) -> None:
    response = post(port, json.dumps({"messages": [{"role": "user", "content": text}]}).encode())
    assert response.status_code == 200, response.text[:300]


def said(port: int, data: bytes) -> bytes:
    """What comes back on a connection that sends these bytes, until the endpoint closes it or has answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
        try:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
        except OSError:  # refused while it was sent
            pass
        found = b""
        try:
            while received := raw.recv(65536):
                found += received
        except ConnectionResetError:
            pass
        return found


BODY = json.dumps(HI).encode()


def head(*lines: str, method: str = "POST", path: str = CHAT) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""]).encode(
        "latin-1"
    )


CONNECTIONS = {
    "a thousand headers": head(*(f"X-{i}: y" for i in range(1000)), f"Content-Length: {len(BODY)}") + BODY,
    "a long header": head("X: " + "y" * 1_000_000, f"Content-Length: {len(BODY)}") + BODY,
    "a long path": head(method="GET", path="/" + "a" * 1_000_000),
    "no length": head() + BODY,
    "a negative length": head("Content-Length: -1") + BODY,
    "a length that is no number": head("Content-Length: 1e3") + BODY,
    "a length beyond all": head("Content-Length: " + "9" * 400) + BODY,
    "two lengths": head("Content-Length: 5", f"Content-Length: {len(BODY)}") + BODY,
    "length and chunks": head("Content-Length: 3", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
    "a chunk of no size": head("Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk beyond all": head("Transfer-Encoding: chunked") + b"ffffffffffffffff\r\n{}\r\n",
    "an unknown coding": head("Transfer-Encoding: gzip") + BODY,
    "letters beyond ascii": head("X-Request-Id: é\xff", f"Content-Length: {len(BODY)}") + BODY,
    "a folded header": head("X-Request-Id: a", " b: c", f"Content-Length: {len(BODY)}") + BODY,
    "a nul in a header": head("X-Request-Id: a\x00b", f"Content-Length: {len(BODY)}") + BODY,
    "a long request id": head("X-Request-Id: " + "a" * 10_000, f"Content-Length: {len(BODY)}") + BODY,
    "no host": b"POST " + CHAT.encode() + b" HTTP/1.1\r\n\r\n",
    "no http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/9": b"GET /healthz HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "an unknown method": head(method="BREW", path="/healthz"),
    "a way out": head(method="GET", path="/../../etc/passwd"),
    "an escaped way out": head(method="GET", path="/%2e%2e/%2e%2e/etc/passwd%00"),
    "a bad escape": head(method="GET", path="/v1/models/%ff%zz"),
    "a url as path": head(method="GET", path="http://169.254.169.254/latest"),
    "two requests, one smuggled": head("Content-Length: 0") + head(method="GET", path="/metrics"),
    "an upgrade": head("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: eA==", method="GET", path="/"),
    "a websocket": head(
        *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        method="GET",
        path=CHAT,
    ),
    "nothing": b"",
}


@pytest.mark.parametrize("name", CONNECTIONS)
def test_connections_of_any_kind(port: int, name: str) -> None:
    found = said(port, CONNECTIONS[name])
    assert not found or found.startswith((b"HTTP/1.1 2", b"HTTP/1.1 4")), found[:300]
    assert b"root:" not in found and b"Traceback" not in found


def test_clients_that_leave_cost_nothing(port: int) -> None:
    for sent in (BODY, BODY[:5]):
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
                raw.sendall(head(f"Content-Length: {len(BODY)}") + sent)
