"""Requests of any shape: answered or refused in OpenAI's shape by a 4xx, in bounded memory, whatever they hold."""

from __future__ import annotations

import asyncio
import json
import random
import tracemalloc

import httpx
from cases import cases

from remora.serving.api import api
from remora.serving.args import EndpointArgs, Limits
from remora.serving.completion import engine_requests
from remora.serving.engines.builtin import BuiltinEngine
from remora.serving.openai_api import Refusal, read_request
from remora.serving.versions import table_of
from support.serving_fake import CHAT, FakeAnswerer, facts_of, load
from support.serving_requests import request

SERVED = ("remora", "share-Fake", "champion")


def test_every_body_is_a_job_or_one_line() -> None:
    """Only the reader: it raises nothing but a 4xx Refusal, which quotes little of the request."""
    draw, model, limits = random.Random(1), facts_of(FakeAnswerer()), Limits()
    counts = {"job": 0, "refusal": 0}
    for _ in range(cases(4000)):
        body = request(draw)
        try:
            found = engine_requests(read_request(body, SERVED), limits, model)
        except Refusal as refusal:
            counts["refusal"] += 1
            told = str(refusal)
            assert 400 <= refusal.status < 500, (body, told)
            assert told and "\n" not in told and len(json.dumps(refusal.body())) < 4000, (body, told)
            assert "Traceback" not in told and " at 0x" not in told and "/" + "site-packages" not in told
            json.dumps(refusal.body()).encode()
        else:
            counts["job"] += 1
            assert found and all(how.max_new_tokens >= 1 for how in found)
            roles = [turn.role for turn in found[0].conversation]  # type: ignore[union-attr]
            asked = roles[1:] if roles[0] == "system" else roles
            assert asked == [("user", "assistant")[i % 2] for i in range(len(asked))] and len(asked) % 2
    assert min(counts.values()) > cases(4000) / 5, counts


def test_every_body_is_answered_over_http() -> None:
    """With the routes and the engine's thread: no 5xx, and memory stays where it was."""
    draw = random.Random(2)

    async def go(count: int) -> None:
        champion = load(EndpointArgs())
        table = table_of("remora", "champion", champion.facts)
        app = api(EndpointArgs(), lambda: table, {"remora": BuiltinEngine.of(champion.answerer, 2**20)})
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            for round_ in range(4):
                for _ in range(count // 4):
                    body = request(draw)
                    response = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
                    assert response.status_code in (200, 400, 404), (body, response.text)
                    if response.status_code != 200:
                        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
                champion.answerer.calls.clear()  # type: ignore[attr-defined]
                held = tracemalloc.get_traced_memory()[0]
                if round_ == 1:
                    first = held
            assert held < first + 4_000_000, "what was refused is kept"

    tracemalloc.start()
    try:
        asyncio.run(go(cases(800)))
    finally:
        tracemalloc.stop()
