"""The middleware in Serve's proxy: slow bodies, deaths, and states of the server. Applications play the proxy."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
import uvicorn.config
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from remora.serving import front
from remora.serving.args import EndpointArgs, IngressArgs
from remora.serving.auth import HEALTH
from remora.serving.front import Front
from remora.serving.relay import BODY as BODY_ALONG
from remora.serving.relay import MARK, SHORT, Facts
from support.waiting import until

Application = Callable[[Scope, Receive, Send], Awaitable[None]]
BODY = b'{"messages": []}'
MOST = 6
"""Requests under way, as the replicas here tell it."""


@pytest.fixture(autouse=True)
def _no_body_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The applications here read it by `receive`."""
    monkeypatch.setattr(front, "LATE_S", 0.0)


def scope_of(path: str = "/v1/chat/completions", headers: dict[str, str] | None = None) -> Scope:
    raw = [(key.encode(), value.encode()) for key, value in (headers or {}).items()]
    method = "GET" if path in (*HEALTH, "/readyz") else "POST"
    return {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b""}


async def exchanged(
    application: Application | Front, scope: Scope | None = None, chunks: list[bytes | None] | None = None
) -> tuple[int, dict[str, str], Any]:
    """(status, headers, body) of one request; a None among the chunks is a client that waits for ever."""
    sent: list[Message] = []
    rest = list([BODY] if chunks is None else chunks)

    async def receive() -> Message:
        if rest and rest[0] is not None:
            return {"type": "http.request", "body": rest.pop(0), "more_body": bool(rest)}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    one = application if isinstance(application, Front) else Front(application)
    await asyncio.wait_for(one(scope or scope_of(), receive, send), 30)
    start, *bodies = sent
    headers = {key.decode(): value.decode() for key, value in start["headers"]}
    text = b"".join(message.get("body", b"") for message in bodies)
    return (
        start["status"],
        headers,
        json.loads(text) if headers["content-type"] == "application/json" else text.decode(),
    )


def exchange(
    application: Application | Front, scope: Scope | None = None, chunks: list[bytes | None] | None = None
) -> tuple[int, dict[str, str], Any]:
    return asyncio.run(exchanged(application, scope, chunks))


async def read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        if not message["more_body"]:
            return body


async def replica(scope: Scope, receive: Receive, send: Send, longest: int = 1000) -> None:
    """One that lives, and says what it got."""
    body = await read(receive)
    answer = {"got": len(body), "status": "ok", "id": dict(scope["headers"]).get(b"x-request-id", b"").decode()}
    await JSONResponse(answer, headers={MARK: f"{longest} 4 {MOST}"})(scope, receive, send)


async def roomy(scope: Scope, receive: Receive, send: Send) -> None:
    await replica(scope, receive, send, 1_000_000)


def says(status: int, text: str, headers: dict[str, str] | None = None) -> Application:
    """The proxy's own response."""

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(text, status, headers)(scope, receive, send)

    return proxy


async def hangs(scope: Scope, receive: Receive, send: Send) -> None:
    """A proxy without a replica: it waits for one, or for the client to go."""
    await read(receive)
    assert (await receive())["type"] == "http.disconnect"


def dies(times: int, then: Application = replica) -> tuple[Application, list[int]]:
    """A proxy whose replicas die of the first requests: it says nothing."""
    asked: list[int] = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(len(await read(receive)))
        if len(asked) > times:

            async def again() -> Message:
                return {"type": "http.request", "body": BODY, "more_body": False}

            await then(scope, again, send)

    return proxy, asked


def test_what_a_replica_says_passes() -> None:
    status, headers, body = exchange(replica, scope_of(headers={"x-request-id": "mine"}), [b"{", b"}"])
    assert (status, body["got"], body["id"], headers[MARK]) == (200, 2, "mine", f"1000 4 {MOST}")


@pytest.mark.parametrize("length", [0, SHORT, SHORT + 1])
def test_a_short_body_goes_along_and_comes_by_receive_too(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ingress replica needs no call of the proxy for it; an application of others on that path reads it late."""
    monkeypatch.setattr(front, "LATE_S", 0.01)
    seen: list[bytes | None] = []

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope.get(BODY_ALONG))
        await roomy(scope, receive, send)

    status, _, answer = exchange(serve, chunks=[b"x" * length])
    assert (status, answer["got"]) == (200, length)
    assert seen == [b"x" * length if length <= SHORT else None]


def test_a_client_that_goes_before_its_body_was_read_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "LATE_S", 3600)
    messages = [{"type": "http.request", "body": BODY, "more_body": False}, {"type": "http.disconnect"}]
    heard = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append((await receive())["type"])

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    asyncio.run(asyncio.wait_for(Front(proxy)(scope_of(), receive, send), 30))
    assert heard == ["http.disconnect"]


def test_what_serve_reads_as_utf_8_is_ascii() -> None:
    """It would answer 500. The client gets its id back as far as it is ASCII."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        for name, value in scope["headers"]:
            name.decode(), value.decode()
        await replica(scope, receive, send)

    scope = scope_of()
    for name in (b"X-Request-Id", b"X-Session-Id", b"Serve_Multiplexed_Model_Id", b"traceparent"):
        scope["headers"].append((name, b"a \xe9\xff"))
    status, _, answer = exchange(serve, scope)
    assert (status, answer["id"]) == (200, "a ??")


@pytest.mark.parametrize("path", ["http://169.254.169.254/latest", "*", "healthz"])
def test_what_is_no_path_has_no_route(path: str) -> None:
    status, headers, answer = exchange(hangs, scope_of(path))
    assert (status, answer["error"]["type"]) == (404, "NotFoundError") and "retry-after" not in headers


@pytest.mark.parametrize("times", [1, 2])
def test_a_death_is_another_replicas_request(times: int) -> None:
    proxy, asked = dies(times)
    status, _, body = exchange(proxy)
    assert (status, body["got"], asked) == (200, len(BODY), [len(BODY)] * (times + 1)), "each was sent the whole body"


def test_a_request_that_kills_is_not_given_to_every_replica() -> None:
    proxy, asked = dies(99)
    status, headers, body = exchange(proxy)
    assert (status, len(asked)) == (503, front.ATTEMPTS)
    assert body["error"]["code"] == "replica_died" and int(headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("said", "status", "code", "after"),
    [
        (says(404, "Path '/v1/chat/completions' not found. Ping http://.../-/routes"), 503, "not_ready", "2"),
        (says(429, "Request dropped due to backpressure (…)", {"retry-after": "7"}), 429, "overloaded", "7"),
        (says(429, "Request dropped due to backpressure (…)", {"retry-after": "1"}), 429, "overloaded", "1"),
        (says(503, "Deployment Endpoint in application remora is unavailable"), 503, "not_ready", "10"),
        (says(408, "Request 1 timed out after 120.0s."), 504, "timeout", "2"),
    ],
)
def test_states_of_the_server_are_told_in_openais_shape(said: Application, status: int, code: str, after: str) -> None:
    found, headers, body = exchange(said)
    assert (found, body["error"]["code"], headers["retry-after"]) == (status, code, after)
    assert set(body["error"]) == {"message", "type", "param", "code"} and headers["x-request-id"]


def test_a_full_endpoint_refuses_before_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as nothing has left the queue and Serve has said a moment ago that it is full."""
    asked: list[bytes] = []

    async def full(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(await read(receive))
        await PlainTextResponse("Request dropped due to backpressure (…)", 429)(scope, receive, send)

    one = Front(full)
    one.going = 3  # that wait in the queue
    for going, tries in ((3, 1), (3, 1), (4, 1), (2, 2), (2, 2)):
        one.going = going
        status, headers, body = exchange(one)
        assert (status, body["error"]["code"], headers["retry-after"]) == (429, "overloaded", "2")
        assert (len(asked), one.going) == (tries, going)
    monkeypatch.setattr(one, "full_until", 0.0)  # later
    exchange(one)
    assert len(asked) == 3


def test_a_bounded_number_of_requests_is_under_way() -> None:
    """A replica says how many; a burst whose bodies come at the same time is counted one by one."""
    told = EndpointArgs(
        max_queued_requests=5, ingress=IngressArgs(max_replicas=2, min_replicas=1, max_ongoing_requests=4)
    )
    assert Facts.read(Facts.of(told).written()) == Facts.of(told) and Facts.of(told).most == 13
    asked: list[int] = []

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(1)
        await asyncio.sleep(0.05)
        await replica(scope, receive, send)

    one = Front(waits)
    assert exchange(one)[0] == 200

    async def burst() -> list[int]:
        return [status for status, _, _ in await asyncio.gather(*(exchanged(one) for _ in range(2 * MOST)))]

    assert Counter(asyncio.run(burst())) == {200: MOST, 429: MOST} and len(asked) == 1 + MOST
    assert one.going == 0 and exchange(one)[0] == 200


def test_another_applications_responses_are_its_own() -> None:
    assert exchange(says(404, "no such page"))[::2] == (404, "no such page")
    assert exchange(says(200, "Path '"))[::2] == (200, "Path '")
    assert exchange(says(400, "bad"))[::2] == (400, "bad")
    assert exchange(says(404, "Path '"), scope_of("/-/routes"))[::2] == (404, "Path '"), "Serve's own paths"


def test_a_slow_body_takes_no_place_and_has_a_deadline() -> None:
    asked = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(1)

    status, _, body = exchange(Front(proxy, body_s=0.1), chunks=[b"{", None])
    assert (status, body["error"]["code"], asked) == (408, "request_timeout", [])


def test_a_body_is_as_long_as_the_replicas_say() -> None:
    """1000 bytes, of these; who has not heard of it yet asks."""
    for headers, chunks in (({"content-length": "1001"}, [b"x"]), ({}, [b"x" * 600] * 2)):
        status, _, body = exchange(Front(replica), scope_of(headers=headers), chunks)
        assert status == 200, "the default is more, and nobody has said otherwise"
        one = Front(replica)
        exchange(one)
        status, _, body = exchange(one, scope_of(headers=headers), chunks)
        assert (status, body["error"]["code"]) == (413, "request_too_large")
        assert one.held == 0


def test_a_longer_limit_than_the_default_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front.Facts, "max_body_bytes", 100)
    one = Front(replica)
    one.facts = front.Facts(100, 4, MOST)
    assert exchange(one, chunks=[b"x" * 900])[0] == 200


def test_bodies_that_are_held_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "HELD", 100)
    one = Front(replica)
    status, headers, body = exchange(one, chunks=[b"x" * 60, b"x" * 60])
    assert (status, body["error"]["code"]) == (429, "overloaded") and headers["retry-after"]
    assert one.held == 0 and exchange(one)[0] == 200


def test_ready_is_who_would_answer_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "HEALTH_S", 0.05)
    ready = scope_of("/readyz")
    one = Front(replica)
    assert exchange(one, ready)[0] == 200
    exchange(one, scope_of("/healthz"))

    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"error": {}}, 503, headers={MARK: f"1000 4 {MOST}"})(scope, receive, send)

    one.going = 4
    for application in (hangs, stuck, says(404, "Path '/readyz' not found."), says(503, "unavailable")):
        one.app = application  # type: ignore[assignment]
        status, headers, body = exchange(one, ready)
        assert (status, body["error"]["code"]) == (503, "not_ready") and headers["retry-after"], application


@pytest.mark.parametrize("path", HEALTH)
def test_health_is_answered_whatever_the_replicas_do(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(front, "HEALTH_S", 0.05)
    health = scope_of(path)
    one = Front(replica)
    assert exchange(one, health)[0] == 200
    one.app, one.going = hangs, 4  # type: ignore[assignment]
    assert exchange(one, health)[2]["status"] == "busy"
    one.going = 0  # nothing to be busy with
    status, headers, body = exchange(one, health)
    assert (status, body["error"]["code"]) == (503, "no_replica") and headers["retry-after"]
    assert exchange(Front(says(404, "Path '/healthz' not found.")), health)[2]["error"]["code"] == "not_ready"
    one.app, one.going = dies(99)[0], 1
    exchange(one)
    one.app, one.going = hangs, 4  # type: ignore[assignment]
    assert exchange(one, health)[0] == 503, "the last one died"


def test_where_no_replica_lives_a_request_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "HEALTH_S", 0.05)
    status, headers, body = exchange(Front(hangs, silence_s=0.2))
    assert (status, body["error"]["code"], headers["retry-after"]) == (503, "no_replica", "10")


def test_a_long_answer_is_waited_for_while_replicas_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "HEALTH_S", 0.05)
    asked = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/healthz":
            asked.append(1)
        else:
            while len(asked) < 8:  # silence_s is over, and health was asked for every quarter of it
                await asyncio.sleep(0.01)
        await replica(scope, receive, send)

    assert exchange(Front(slow, silence_s=0.2))[0] == 200


def test_a_client_that_goes_leaves_the_line() -> None:
    gone = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        gone.append((await receive())["type"])

    messages = [{"type": "http.request", "body": BODY, "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    asyncio.run(Front(proxy)(scope_of(), receive, send))
    assert gone == ["http.disconnect"], "and nobody is asked again"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The middleware before a replica, on uvicorn as Serve's proxy runs it."""
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    (middleware,) = front.middlewares()
    server = uvicorn.Server(
        uvicorn.Config(
            middleware.cls(roomy, *middleware.args, **middleware.kwargs), port=0, log_config=None, lifespan="off"
        )
    )
    sock = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    until("the server", lambda: server.started, 0.01)
    yield sock.getsockname()
    server.should_exit = True
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("upgrade", ["h2c", "h2c, foo", "TLS/1.0"])
@pytest.mark.parametrize("size", [16, 300_000])
def test_an_offer_to_upgrade_is_answered_over_http_1(served: tuple[str, int], upgrade: str, size: int) -> None:
    """As Java's HttpClient and `curl --http2` send it: with the body behind it."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
        f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    )
    with socket.create_connection(served, timeout=20) as client:
        for _ in range(2):  # the connection stays
            client.sendall(head.encode() + b"x" * size)
            answer = b""
            while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
                answer += client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200") and f'"got":{size}'.encode() in answer
