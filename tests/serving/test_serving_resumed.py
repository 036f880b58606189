"""A stream whose ingress replica dies goes on behind what its client has: against every place to die, with pieces that
are cut elsewhere. Applications play Serve's proxy."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from remora.serving import chat, completion, front, resumed
from remora.serving.args import EndpointArgs
from remora.serving.engines.protocol import Chosen, Delta, Likely
from remora.serving.front import SEED, Front
from remora.serving.relay import MARK
from remora.serving.responses import Head, events
from remora.serving.resumed import END, OtherAnswer, Rest
from support.serving_fake import CHAT, call

WORDS = ["A r", "ed ", "círcle", " ", "🐟", "", "on it.", "\n\nThat", " is", " all"]


@pytest.fixture(autouse=True)
def _no_body_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The applications here read it by `receive`."""
    monkeypatch.setattr(front, "LATE_S", 0.0)


def deltas(draw: random.Random, answers: int, logprobs: bool) -> list[tuple[int, Delta]]:
    """The same answers in pieces that `draw` decides."""
    found = list[tuple[int, Delta]]()
    waiting = {index: [(word, n) for n, word in enumerate(WORDS[index:])] for index in range(answers)}
    while waiting:
        index = draw.choice(list(waiting))
        count = draw.randint(1, 4)
        took, waiting[index] = waiting[index][:count], waiting[index][count:]
        told = tuple(Chosen(Likely(n, word, None, -0.1 * n)) for word, n in took) if logprobs else ()
        end = None if waiting[index] else "stop"
        if end:
            del waiting[index]
        text, tokens = "".join(word for word, _ in took), tuple(n for _, n in took)
        found.append((index, Delta(text, tokens, told, end, 7, 0, 3)))  # type: ignore[arg-type]
    return found


def stream(seed: int, answers: int = 1, logprobs: bool = False, usage: bool = True, version: str = "3") -> list[bytes]:
    """Its events."""

    async def go() -> list[bytes]:
        async def each() -> AsyncIterator[tuple[int, Delta]]:
            for one in deltas(random.Random(seed), answers, logprobs):
                yield one

        parts = [part async for part in events(Head("m", f"remora@{version}"), each(), answers, usage)]
        assert len(parts) <= len(deltas(random.Random(seed), answers, logprobs)), "a delta's events come together"
        return [event + END for event in b"".join(parts).split(END) if event]

    return asyncio.run(go())


def read(sent: bytes) -> dict[str, Any]:
    """What a client makes of a stream; each thing that may be there once is."""
    lines = [event.removeprefix(b"data: ") for event in sent.split(b"\n\n") if event]
    assert lines[-1] == b"[DONE]" and lines.count(b"[DONE]") == 1
    bodies = [json.loads(line) for line in lines[:-1]]
    answers: dict[int, dict[str, Any]] = {}
    for body in bodies:
        for choice in body["choices"]:
            one = answers.setdefault(choice["index"], {"roles": 0, "text": "", "logprobs": [], "ends": []})
            one["roles"] += "role" in choice["delta"]
            one["text"] += choice["delta"].get("content", "")
            one["logprobs"] += (choice["logprobs"] or {}).get("content") or []
            one["ends"] += [choice["finish_reason"]] if choice["finish_reason"] else []
            assert one["roles"] == 1
    heads = {(body["id"], body["created"], body["model"], body["system_fingerprint"]) for body in bodies}
    assert len(heads) == 1
    return {"answers": answers, "usage": [body["usage"] for body in bodies if body.get("usage")]}


@pytest.mark.parametrize("answers", [1, 3])
@pytest.mark.parametrize("logprobs", [False, True])
def test_another_replicas_stream_adds_what_the_client_has_not(answers: int, logprobs: bool) -> None:
    expected = read(b"".join(stream(0, answers, logprobs)))
    assert all(one["ends"] == ["stop"] for one in expected["answers"].values()) and len(expected["usage"]) == 1
    for seed in range(1, 12):
        first = stream(seed, answers, logprobs)
        for count in range(len(first)):
            sent = b"".join(first[:count])
            rest, second = Rest(sent), b"".join(stream(100 + seed, answers, logprobs))
            cut = random.Random(count).randrange(len(second))
            sent += rest.of(second[:cut]) + rest.of(second[cut:])
            assert read(sent) == expected


def test_a_stream_of_another_answer_is_none_of_it() -> None:
    begun = b"".join(stream(1)[:4])
    with pytest.raises(OtherAnswer, match="another version"):
        Rest(begun).of(b"".join(stream(1, version="4")))
    other = b"".join(stream(1)).replace(b"A r", b"A g")
    with pytest.raises(OtherAnswer, match="its text is another"):
        Rest(begun).of(other)
    head, *_, end, _, done = stream(1)
    with pytest.raises(OtherAnswer, match="its text is shorter"):
        Rest(begun).of(head + end + done)


def test_an_error_of_the_second_replica_is_told() -> None:
    error = b'data: {"error": {"message": "x"}}\n\n'
    assert Rest(b"".join(stream(1)[:4])).of(error) == error


Act = Callable[[Scope, Receive, Send], Any]


def sends(parts: list[bytes], ends: bool = True) -> Act:
    """A replica that streams these, and ends or dies."""

    async def replica(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (MARK.encode(), b"1000 4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if ends:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return replica


def refuses(status: int) -> Act:
    async def replica(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (MARK.encode(), b"1000 4")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    return replica


BEGUN = sends(stream(1)[:3], ends=False)


async def waits(scope: Scope, receive: Receive, send: Send) -> None:
    """One that waits until its client is gone."""
    await BEGUN(scope, receive, send)
    while (await receive())["type"] != "http.disconnect":
        pass


def asked(*acts: Act, goes: bool = False) -> tuple[list[Message], list[Scope]]:
    """What a client was sent, and the requests; `goes`: after the body, the client goes."""
    sent, scopes, left = list[Message](), list[Scope](), list(acts)

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        scopes.append(scope)
        await left.pop(0)(scope, receive, send)

    messages: list[Message] = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        if not goes:
            await asyncio.Event().wait()
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b""}
    scope["headers"] = [(SEED.encode(), b"5"), (b"content-type", b"application/json")]
    asyncio.run(asyncio.wait_for(Front(proxy)(scope, receive, send), 60))
    assert not left
    return sent, scopes


def body(sent: list[Message]) -> bytes:
    start, *parts = sent
    assert start["type"] == "http.response.start" and start["status"] == 200
    assert all(part["type"] == "http.response.body" for part in parts)
    assert [part["more_body"] for part in parts] == [True] * (len(parts) - 1) + [False]
    return b"".join(part["body"] for part in parts)


def error(sent: list[Message]) -> dict[str, Any]:
    last = body(sent).split(b"\n\n")[-2]
    return dict(json.loads(last.removeprefix(b"data: "))["error"])


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_stream_goes_on_when_its_replica_dies(count: int) -> None:
    sent, scopes = asked(sends(stream(1)[:count], ends=False), sends(stream(2)[:6], ends=False), sends(stream(3)))
    assert read(body(sent)) == read(b"".join(stream(0)))
    seeds = [dict(scope["headers"])[SEED.encode()] for scope in scopes]
    assert len(seeds) == 3 and len(set(seeds)) == 1 and seeds[0] != b"5", "the front's own, and the same for all"
    assert all([key for key, _ in scope["headers"]].count(SEED.encode()) == 1 for scope in scopes)


def test_a_stream_that_had_all_but_its_end_is_ended() -> None:
    sent, scopes = asked(sends(stream(1), ends=False))
    assert read(body(sent)) == read(b"".join(stream(1))) and len(scopes) == 1
    told = [*stream(1)[:3], b'data: {"error": {"message": "x"}}\n\n']
    sent, scopes = asked(sends(told, ends=False))
    assert body(sent) == b"".join(told) and len(scopes) == 1


@pytest.mark.parametrize("then", [sends(stream(1, version="4")), refuses(429), refuses(503)])
def test_one_that_cannot_go_on_ends_with_an_error(then: Act) -> None:
    sent, _ = asked(sends(stream(1)[:4], ends=False), then)
    assert error(sent)["code"] == "replica_died" and body(sent).startswith(b"".join(stream(1)[:1])[:6])


def test_a_request_that_kills_ends_with_an_error() -> None:
    begun = [sends(stream(1)[:n], ends=False) for n in (3, 4, 5)]
    sent, _ = asked(*begun)
    assert error(sent)["code"] == "replica_died"


def test_a_stream_that_serves_time_limit_cut_is_not_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "BREAKS_S", -1.0)
    sent, scopes = asked(sends(stream(1)[:4], ends=False))
    assert error(sent)["code"] == "timeout" and len(scopes) == 1


def test_a_stream_that_is_too_long_to_keep_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumed, "KEPT", 300)
    sent, scopes = asked(sends(stream(1)[:4], ends=False))
    assert error(sent)["code"] == "replica_died" and len(scopes) == 1


def test_a_client_that_goes_is_not_answered_by_another_replica() -> None:
    sent, scopes = asked(waits, goes=True)
    assert len(scopes) == 1 and len(sent) == 4 and sent[-1]["more_body"]


def test_a_request_without_a_seed_draws_as_the_header_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def seeds(headers: dict[str, str], **fields: object) -> list[int]:
        made = list[int]()

        def kept(*args: Any, **options: Any) -> Any:
            requests = completion.engine_requests(*args, **options)
            made.extend(one.seed for one in requests)
            return requests

        monkeypatch.setattr(chat, "engine_requests", kept)
        said = {"messages": [{"role": "user", "content": "hi"}], "temperature": 1.5, "n": 2, **fields}
        assert call("POST", CHAT, EndpointArgs(), json=said, headers=headers).status_code == 200
        return made

    assert seeds({SEED: "7"}) == [7, 8] and seeds({SEED: "8"}, seed=7) == [7, 8]
    for strange in ("", "-1", "x", "9" * 5000):
        assert seeds({SEED: strange}) != seeds({SEED: strange}), "drawn here"
