"""Streams over a socket, as OpenAI's clients and curl read them; a client that goes is cancelled."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from remora.inference import Answerer
from remora.serving.api import api
from remora.serving.args import EndpointArgs
from remora.serving.champion import ServedModel
from remora.serving.engines.builtin import BuiltinEngine
from remora.serving.versions import table_of
from support.serving_fake import CHAT, data_url
from support.small_answerers import answerer_of, pictures
from support.waiting import until


class Endpoint:
    """The application on a free port, without Ray."""

    def __init__(self, answerer: Answerer) -> None:
        self.answerer, self.fails = answerer, False
        self.engine = BuiltinEngine(answerer, self._make, 16)
        table = table_of("remora", "champion", ServedModel(answerer, "3").facts)
        app = api(EndpointArgs(), lambda: table, {"remora": self.engine})
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
        self._thread = threading.Thread(target=self._server.run)

    def _make(self, rows: int) -> Any:
        engine = self.answerer.engine(rows)
        step = engine.step

        def stepping() -> Any:
            if self.fails and engine.stats.running:
                raise RuntimeError("the device is gone")
            return step()

        engine.step = stepping  # type: ignore[method-assign]
        return engine

    def __enter__(self) -> Endpoint:
        self._thread.start()
        until("the port", lambda: self._server.started)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def endpoint(tiny_tokenizer: Any) -> Iterator[Endpoint]:
    answerer = answerer_of("smollm2-135m", tiny_tokenizer)
    with Endpoint(answerer) as endpoint:
        yield endpoint


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[Any]:
    from openai import OpenAI

    with OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def body(**options: Any) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": data_url(pictures(1)[0])}}
    content = [image, {"type": "text", "text": "What is this?"}]
    return {"model": "remora", "messages": [{"role": "user", "content": content}], "max_tokens": 12} | options


def endless(endpoint: Endpoint, tokens: int = 12, **options: Any) -> dict[str, Any]:
    return body(max_tokens=tokens, logit_bias={str(endpoint.answerer.stop_id): -100}, **options)


@pytest.mark.slow
def test_a_stream_is_the_answer(endpoint: Endpoint, client: Any) -> None:
    asked = endless(endpoint, n=3, temperature=0.5, seed=4, stop=[" 9"], logprobs=True, top_logprobs=2)
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    *parts, last = chunks
    of: dict[int, list[Any]] = defaultdict(list)
    for chunk in parts:
        assert chunk.usage is None and chunk.id == last.id
        (choice,) = chunk.choices
        of[choice.index].append(choice)
    assert [chunk.choices[0].index for chunk in parts] != sorted(chunk.choices[0].index for chunk in parts)
    assert len({choice.message.content for choice in whole.choices}) == 3
    for choice in whole.choices:
        heard = of[choice.index]
        assert (heard[0].delta.role, heard[0].delta.content) == ("assistant", "")
        assert "".join(each.delta.content or "" for each in heard) == choice.message.content
        assert [each.finish_reason for each in heard] == [None] * (len(heard) - 1) + [choice.finish_reason]
        told = [one for each in heard if each.logprobs for one in each.logprobs.content]
        assert [one.token for one in told] == [one.token for one in choice.logprobs.content]
        assert all(len(one.top_logprobs) == 2 and one.logprob <= one.top_logprobs[0].logprob for one in told)
        assert bytes(told[0].bytes).decode() == told[0].token
    usage = last.usage
    assert last.choices == [] and usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens_details.image_tokens == endpoint.answerer.prompter.image_tokens > 0
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_the_asynchronous_client(endpoint: Endpoint) -> None:
    from openai import AsyncOpenAI

    async def go() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=f"{endpoint.url}/v1", api_key="none", timeout=60) as client:
            whole = await client.chat.completions.create(**endless(endpoint))
            text = ""
            async for chunk in await client.chat.completions.create(**endless(endpoint), stream=True):
                text += chunk.choices[0].delta.content or ""
            return whole.choices[0].message.content, text

    whole, text = asyncio.run(go())
    assert whole == text and len(text.split()) == 12


def test_each_event_has_the_counts_so_far_if_that_is_wanted(endpoint: Endpoint, client: Any) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(client.chat.completions.create(**endless(endpoint), stream=True, stream_options=options))
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert len(counts) == len(chunks) - 1 and counts == sorted(counts) and counts[-1] == 12


def test_curl(endpoint: Endpoint) -> None:
    command = ["curl", "-sSN", f"{endpoint.url}{CHAT}", "-H", "Content-Type: application/json", "-d", "@-", "-i"]
    sent = json.dumps(endless(endpoint, stream=True))
    head, _, events = subprocess.run(command, input=sent, capture_output=True, text=True, check=True).stdout.partition(
        "\n\n"
    )
    assert "200 OK" in head and "content-type: text/event-stream" in head
    *chunks, done, nothing = events.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "") and len(chunks) >= 4
    for chunk in chunks:
        assert json.loads(chunk.removeprefix("data: "))["object"] == "chat.completion.chunk"
        assert "usage" not in json.loads(chunk.removeprefix("data: "))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_is_cancelled(endpoint: Endpoint, stream: bool) -> None:
    said = endpoint.engine.stats.load.answer_tokens
    with httpx.Client(base_url=endpoint.url, timeout=60) as raw:
        if stream:
            with raw.stream("POST", CHAT, json=endless(endpoint, 3000, stream=True)) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                raw.post(CHAT, json=endless(endpoint, 3000), timeout=0.3)
    until("the request to be gone", lambda: endpoint.engine.stats.load.running == 0)
    assert endpoint.engine.stats.load.answer_tokens < said + 2900


def test_a_failure_on_the_way_is_an_error_event(endpoint: Endpoint, client: Any) -> None:
    import openai

    stream = client.chat.completions.create(**endless(endpoint, 3000), stream=True)
    try:
        with pytest.raises(
            openai.APIError, match="the model failed with RuntimeError; see the replica's log"
        ) as caught:
            for i, chunk in enumerate(stream):
                endpoint.fails = i > 2
                assert chunk.choices[0].finish_reason is None
        assert caught.value.body["type"] == "InternalServerError"
    finally:
        endpoint.fails = False
    assert client.chat.completions.create(**endless(endpoint)).choices[0].finish_reason == "length"


def test_a_stream_that_cannot_begin_has_a_status(client: Any, endpoint: Endpoint) -> None:
    import openai

    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.chat.completions.create(**body(model="gpt-4o"), stream=True)
    with pytest.raises(openai.BadRequestError, match="needs logprobs: true"):
        client.chat.completions.create(**body(top_logprobs=3), stream=True)
