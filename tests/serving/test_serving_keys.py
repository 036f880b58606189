"""Keys: who is answered, what is checked before a body is read, and the limits of who holds one. No Ray."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Scope

from remora.errors import ServingError, SpecError
from remora.serving import front
from remora.serving.args import EndpointArgs
from remora.serving.auth import KeyCheck
from remora.serving.deploy import serve_forever
from remora.serving.keys import (
    ApiKey,
    KeyRing,
    add_key,
    from_written,
    hash_of,
    is_loopback,
    new_key,
    read_keys,
    written,
)
from remora.serving.rollout import with_versions
from support.serving_fake import CHAT, call

HI = {"messages": [{"role": "user", "content": "hi"}]}
KEY = "rmr-of-the-tests"
KEYED = EndpointArgs(keys={"tests": ApiKey(sha256=hash_of(KEY))})
GOOD = {"authorization": f"Bearer {KEY}"}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def never_read() -> Message:
    raise AssertionError("the body was read")


async def reply(scope: Scope, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def said(check: KeyCheck, headers: dict[str, str] | None = None, **scope: Any) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of one request that never has its body read."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(key.encode(), value.encode("latin-1")) for key, value in (headers or {}).items()]
    asked = {"type": "http", "method": "POST", "path": CHAT, "headers": raw, "client": ("127.0.0.1", 1)} | scope
    asyncio.run(check(asked, never_read, send))
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    body = sent[1]["body"]
    return sent[0]["status"], found, json.loads(body) if body else None


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_api_key"),
        ("", "missing_api_key"),
        ("Bearer", "missing_api_key"),
        ("Bearer ", "missing_api_key"),
        (f"Basic {KEY}", "missing_api_key"),
        (KEY, "missing_api_key"),
        ("Bearer none", "invalid_api_key"),
        (f"Bearer {KEY}x", "invalid_api_key"),
        (f"Bearer {hash_of(KEY)}", "invalid_api_key"),
        ("Bearer \xff\xfe", "invalid_api_key"),
        ("Bearer " + "x" * 60_000, "invalid_api_key"),
    ],
)
def test_a_wrong_key_is_refused_before_the_body_is_read(header: str | None, code: str) -> None:
    headers = {} if header is None else {"authorization": header}
    status, told, body = said(KeyCheck(reply, KEYED.keys), {**headers, "content-length": "20000000"})  # type: ignore[arg-type]
    assert (status, told["www-authenticate"], body["error"]["code"]) == (401, "Bearer", code)
    assert body["error"]["type"] == "AuthenticationError" and KEY not in json.dumps(body)


def test_every_path_but_health_and_the_page_needs_a_key() -> None:
    for method, path in [
        ("POST", CHAT),
        ("GET", "/v1/models"),
        ("GET", "/version"),
        ("GET", "/metrics"),
        ("GET", "/x"),
    ]:
        assert call(method, path, KEYED).status_code == 401, path
        assert call(method, path, KEYED, headers=GOOD).status_code != 401, path
    for method, path in [
        ("POST", "/healthz"),
        ("POST", "/"),
        ("GET", "/healthz/"),
        ("GET", "/-/routes"),
    ]:
        assert call(method, path, KEYED).status_code == 401, path
    assert call("GET", "/healthz", KEYED).status_code == 200
    assert call("POST", CHAT, KEYED, headers={"authorization": f"bearer  {KEY} "}, json=HI).status_code == 200
    check = KeyCheck(reply, KEYED.keys)  # type: ignore[arg-type]
    assert said(check, {"content-length": "5"}, method="GET", path="/healthz")[0] == 401, "a body that would be read"


def test_openais_client_knows_the_refusals() -> None:
    import httpx
    import openai

    def answer(request: httpx.Request) -> httpx.Response:
        found = call("POST", CHAT, KEYED, content=request.content, headers=dict(request.headers))
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)

    transport = httpx.Client(transport=httpx.MockTransport(answer))
    for key, kind in (("none", openai.AuthenticationError), (KEY, None)):
        client = openai.OpenAI(base_url="http://127.0.0.1/v1", api_key=key, http_client=transport, max_retries=0)
        if kind is None:
            client.chat.completions.create(model="remora", messages=[{"role": "user", "content": "hi"}])
        else:
            with pytest.raises(kind, match="not valid here"):
                client.chat.completions.create(model="remora", messages=[{"role": "user", "content": "hi"}])


def test_a_page_elsewhere_may_ask_whether_it_may_ask() -> None:
    args = KEYED.model_copy(update={"cors_origins": ("https://chat.example.org",)})
    asking = {"origin": "https://chat.example.org", "access-control-request-method": "POST"}
    assert call("OPTIONS", CHAT, args, headers=asking).status_code == 200
    refused = call("POST", CHAT, args, headers={"origin": "https://chat.example.org"}, json=HI)
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://chat.example.org"
    check = KeyCheck(reply, KEYED.keys)  # type: ignore[arg-type]
    assert said(check, {**asking, "content-length": "9"}, method="OPTIONS")[0] == 401
    assert said(check, {}, method="OPTIONS")[0] == 401


def test_requests_a_minute() -> None:
    clock = Clock()
    check = KeyCheck(reply, {"alice": ApiKey(sha256=hash_of(KEY), requests_per_minute=3)}, clock)
    assert [said(check, GOOD)[0] for _ in range(4)] == [204, 204, 204, 429]
    status, headers, body = said(check, GOOD)
    assert (status, headers["retry-after"], body["error"]["code"]) == (429, "20", "rate_limit_exceeded")
    assert body["error"]["type"] == "RateLimitError" and "'alice' has sent its 3 requests a minute" in str(body)
    assert said(check, GOOD, method="GET", path="/v1/models")[0] == 204, "what asks the model nothing is not counted"
    clock.now = 19.9
    assert said(check, GOOD)[0] == 429
    clock.now = 20.0
    assert [said(check, GOOD)[0] for _ in range(2)] == [204, 429]
    clock.now = 10_000.0
    assert [said(check, GOOD)[0] for _ in range(4)] == [204, 204, 204, 429], "what was not used is not saved up"


def test_requests_at_a_time() -> None:
    keys = {name: ApiKey(sha256=hash_of(name), concurrent=2) for name in ("alice", "bob")}

    async def go() -> None:
        gate, going = asyncio.Event(), 0

        async def slow(scope: Scope, receive: Any, send: Any) -> None:
            nonlocal going
            going += 1
            await gate.wait()
            await reply(scope, receive, send)

        check = KeyCheck(slow, keys)

        async def ask(name: str) -> int:
            sent: list[Message] = []

            async def send(message: Message) -> None:
                sent.append(message)

            headers = [(b"authorization", f"Bearer {name}".encode())]
            await check({"type": "http", "method": "POST", "path": CHAT, "headers": headers}, never_read, send)
            return int(sent[0]["status"])

        first = [asyncio.create_task(ask("alice")) for _ in range(2)]
        while going < 2:
            await asyncio.sleep(0)
        assert await ask("alice") == 429
        other = asyncio.create_task(ask("bob"))
        first[0].cancel()  # its client is gone
        while going < 3:
            await asyncio.sleep(0)
        third = asyncio.create_task(ask("alice"))
        while going < 4:
            await asyncio.sleep(0)
        gate.set()
        assert [await task for task in (first[1], other, third)] == [204] * 3
        assert {name: holder.going for name, holder in check.holders.items()} == {"alice": 0, "bob": 0}

    asyncio.run(asyncio.wait_for(go(), 60))


@pytest.mark.parametrize(
    ("client", "host", "status"),
    [
        ("127.0.0.1", "localhost:8000", 204),
        ("127.0.0.1", "127.0.0.1", 204),
        ("::1", "[::1]:8000", 204),
        ("::ffff:127.0.0.1", "LOCALHOST", 204),
        ("127.0.0.1", None, 204),
        ("127.0.0.1", "evil.example:8000", 403),
        ("127.0.0.1", "localhost.evil.example", 403),
        ("127.0.0.1", "127.0.0.1.nip.io", 403),
        ("192.0.2.7", "localhost", 403),
        ("fe80::1", "localhost", 403),
    ],
)
def test_without_keys_this_machine_is_answered_alone(client: str, host: str | None, status: int) -> None:
    """Not a page of another site either, whose name now points here."""
    headers = {} if host is None else {"host": host}
    found, _, body = said(KeyCheck(reply), headers, client=(client, 5))
    assert found == status and (status == 204 or body["error"]["code"] == "keys_are_off")
    assert (
        said(KeyCheck(reply), {"host": "load.balancer"}, client=("192.0.2.7", 5), method="GET", path="/healthz")[0]
        == 204
    )


def test_a_file_is_followed(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys.yaml", Clock()
    alice = add_key(file, "alice", 60, 4)
    assert alice not in file.read_text() and len(alice) > 40
    assert read_keys(file)["alice"] == ApiKey(sha256=hash_of(alice), requests_per_minute=60, concurrent=4)
    ring = KeyRing(file, clock)
    bob = add_key(file, "bob")
    clock.now = 0.5
    assert ring.find(bob.encode()) is None
    clock.now = 1.5
    assert ring.find(bob.encode()) == ("bob", ApiKey(sha256=hash_of(bob)))
    file.write_text("keys: {")
    clock.now = 3.0
    assert ring.find(alice.encode()), "a file that cannot be read locks nobody out"
    file.write_text(json.dumps({"keys": {"bob": {"sha256": hash_of(bob)}}}))
    clock.now = 5.0
    assert ring.find(bob.encode()) and not ring.find(alice.encode())
    file.unlink()
    clock.now = 7.0
    assert ring.find(bob.encode())


def test_json_stays_json(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = add_key(file, "alice")
    assert json.loads(file.read_text()) == {"keys": {"alice": {"sha256": hash_of(key)}}}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "keys: {}",
        "keys: {a: {sha256: abc}}",
        "keys: {a: b}",
        "alice: x",
        "keys: {a: {sha256: %s, per_day: 3}}",
        "\0",
    ],
)
def test_a_file_of_another_form_is_one_line_each(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(content.replace("%s", "0" * 64))
    with pytest.raises(SpecError, match=r"keys\.yaml"):
        read_keys(file)


def test_the_proxys_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = {"a": ApiKey(sha256=hash_of("a"), concurrent=3)}
    assert from_written(written(keys)) == keys and from_written(written(tmp_path)) == tmp_path
    monkeypatch.delenv(front.KEYS, raising=False)
    assert [each.cls for each in front.middlewares()] == [front.Front]
    monkeypatch.setenv(front.KEYS, written(keys))
    last, first = front.middlewares()  # Serve wraps in this order: the last one is the outermost
    assert (first.cls, first.kwargs, last.cls) == (KeyCheck, {"keys": keys}, front.Front)


def test_keys_are_off_only_by_an_explicit_word_on_loopback(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="keys is missing"):
        EndpointArgs().check_keys()
    with pytest.raises(SpecError, match="keys is missing"):
        serve_forever(EndpointArgs())
    with pytest.raises(SpecError, match="contradict"):
        EndpointArgs.read({"keys": "keys.yaml", "no_keys": True})
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ServingError, match="listens on this machine only"):
            serve_forever(EndpointArgs(no_keys=True), host=host)
        app = {"import_path": "remora.serving.app:build", "args": {"no_keys": True}}
        with pytest.raises(SpecError, match=r"listens on 127\.0\.0\.1 only"):
            with_versions({"http_options": {"host": host}, "applications": [app]})
    with pytest.raises(SpecError, match="cannot read"):
        serve_forever(EndpointArgs(keys=tmp_path / "none.yaml"))


def test_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]))
    assert not any(
        map(is_loopback, ["", "0.0.0.0", "::", "10.0.0.1", "2130706433", "0x7f.1", "local", "::ffff:10.0.0.1"])
    )


def test_no_two_keys_are_the_same() -> None:
    assert len({new_key() for _ in range(100)}) == 100
