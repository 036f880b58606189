"""The endpoint as clients see it: over Ray Serve with OpenAI's own client, and its HTTP rules without Ray."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from serving_docs import examples
from starlette.types import Message, Receive, Scope, Send

from remora.errors import ServingError
from remora.serving import deploy
from remora.serving.args import EndpointArgs, Limits
from remora.serving.client import ask, curl_command
from remora.serving.deploy import serve_forever
from remora.serving.engines.protocol import VersionedRequest
from remora.serving.relay import BODY
from support import serving_fake
from support.serving_fake import CHAT, HELD, call, data_url, fake_api
from support.serving_requests import request
from support.waiting import until

FAKE = Path(serving_fake.__file__)
RED = Image.new("RGB", (30, 20), (255, 0, 0))
HI = {"messages": [{"role": "user", "content": "hi"}]}


def test_a_body_is_refused_by_its_declared_length_and_while_it_is_read() -> None:
    taken = 0

    async def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 1024

    args = EndpointArgs(limits=Limits(max_body_bytes=10_240))
    for headers, chunks_read in [({"content-length": "10241"}, 0), ({}, 11)]:
        response = call("POST", CHAT, args, content=endless(), headers=headers)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"
        assert taken == chunks_read


@pytest.mark.parametrize(("longest", "status"), [(10_240, 200), (1024, 413)])
def test_a_body_that_came_along_is_not_waited_for(longest: int, status: int) -> None:
    """As the front sends short ones; `receive` has nothing yet."""
    app, _ = fake_api(EndpointArgs(limits=Limits(max_body_bytes=longest)))

    async def along(scope: Scope, receive: Receive, send: Send) -> None:
        async def silent() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        await app({**scope, BODY: json.dumps(HI).encode() + 2000 * b" "}, silent, send)

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(along)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post(CHAT)

    assert asyncio.run(asyncio.wait_for(go(), 30)).status_code == status


def test_a_failure_of_the_model_tells_a_stranger_its_kind_alone() -> None:
    response = call("POST", CHAT, json={"messages": [{"role": "user", "content": "explode"}]})
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "the model failed with KeyError; see the replica's log"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_what_is_no_json_by_its_own_word_is_refused(kind: str) -> None:
    response = call("POST", CHAT, content=json.dumps(HI), headers={"content-type": kind})
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")
    for fine in ("application/json", "application/JSON; charset=utf-8", "application/vnd.api+json"):
        assert call("POST", CHAT, content=json.dumps(HI), headers={"content-type": fine}).status_code == 200
    assert call("POST", CHAT, content=json.dumps(HI)).status_code == 200


def test_pages_of_named_origins_may_ask() -> None:
    asking = {"origin": "https://chat.example.org", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in call("OPTIONS", CHAT, headers=asking).headers
    args = EndpointArgs(cors_origins=("https://chat.example.org",))
    for method in ("OPTIONS", "POST"):
        response = call(method, CHAT, args, headers=asking, json=HI)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, asking["origin"])
    other = call("OPTIONS", CHAT, args, headers=asking | {"origin": "https://elsewhere.example.org"})
    assert "access-control-allow-origin" not in other.headers


def test_every_name_is_listed_and_found() -> None:
    names = ["remora", "share-Fake", "champion"]
    assert [card["id"] for card in call("GET", "/v1/models").json()["data"]] == names
    for name in names:
        card = call("GET", f"/v1/models/{name}").json()
        assert (card["id"], card["object"], card["metadata"]["name"]) == (name, "model", "share-Fake")
    response = call("GET", "/v1/models/gpt-4o")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/docs", 404), ("GET", CHAT, 405)])
def test_other_routes_answer_in_openais_shape(method: str, path: str, status: int) -> None:
    response = call(method, path)
    assert response.status_code == status
    assert "known: POST /v1/chat/completions" in response.json()["error"]["message"]


def test_a_port_in_use_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(deploy, "ray_session", None)  # whoever starts one fails
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=rf"127.0.0.1:{port} .*in use.*; next: --port {port + 1}"):
            serve_forever(EndpointArgs(no_keys=True), port=port)
    with pytest.raises(ServingError, match="found 80000"):
        serve_forever(EndpointArgs(no_keys=True), port=80_000)


class Server:
    """An endpoint in a separate process."""

    def __init__(self, folder: Path, alias: str = "champion") -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "log"
        self.told: list[httpx.Response | None] = []
        """Responses to clients while it started and stopped."""
        env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(FAKE.parents[1])}
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(FAKE), str(port), alias], stdout=out, stderr=subprocess.STDOUT, env=env
            )

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            self.told.append(self.state())
            return "READY" in self.log.read_text()

        until("the endpoint", ready, 0.2)

    def state(self) -> httpx.Response | None:
        """Its answer to a question now; None if nothing listens."""
        try:
            return httpx.post(self.url + CHAT, json=HI, timeout=60)
        except httpx.TransportError:
            return None

    def stop(self) -> str:
        """Returns its log."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                until("the endpoint's end", self.ended, 0.1)
            finally:
                self.process.kill()
                self.process.wait()
        return self.log.read_text()

    def ended(self) -> bool:
        self.told.append(self.state())
        return self.process.poll() is not None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("endpoint"))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    from openai import OpenAI

    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


def chat(client: Any, question: str, image: str | None = None, **options: Any) -> Any:
    content: list[dict[str, Any]] = [{"type": "text", "text": question}]
    if image is not None:
        content.append({"type": "image_url", "image_url": {"url": image}})
    return client.chat.completions.create(
        messages=[{"role": "user", "content": content}], **({"model": "remora"} | options)
    )


@pytest.mark.ray
def test_openais_client_asks_about_a_picture(client: Any) -> None:
    response = chat(client, "what is it?", data_url(RED), max_tokens=5, temperature=0)
    said = response.choices[0].message.content
    assert said.startswith("user | ['30x20 RGB (255, 0, 0)'] | what is it? | ")
    assert response.choices[0].finish_reason == "stop"
    assert (response.model, response.system_fingerprint) == ("share-Fake", "remora@3")
    assert (response.usage.prompt_tokens, response.usage.completion_tokens, response.usage.total_tokens) == (7, 3, 10)


@pytest.mark.ray
def test_models_and_health(server: Server, client: Any) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["remora", "share-Fake", "champion"]
    model = client.models.retrieve("remora")
    assert model.metadata["version"] == "3" and model.metadata["names"] == ["remora", "share-Fake", "champion"]
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok", "model": "share-Fake", "version": "3"}


@pytest.mark.ray
def test_refusals_reach_the_client_as_its_own_errors(client: Any) -> None:
    import openai

    with pytest.raises(openai.NotFoundError, match="model 'gpt-4o' is not served here"):
        chat(client, "hi", model="gpt-4o")
    for image, reason in [
        ("http://127.0.0.1/a.png", "only data: URLs"),
        ("file:///etc/passwd", "only data: URLs"),
        ("data:image/png;base64,AAAA", "not a PNG"),
    ]:
        with pytest.raises(openai.BadRequestError, match=reason):
            chat(client, "hi", image)
    with pytest.raises(openai.BadRequestError, match="min_p: not supported"):
        chat(client, "hi", extra_body={"min_p": 0.5})
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512 tokens") as too_long:
        chat(client, "too long")
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIStatusError) as caught:
        chat(client, "x" * (21 * 2**20))
    assert caught.value.status_code == 413
    with pytest.raises(openai.InternalServerError, match="KeyError"):
        chat(client, "explode")


@pytest.mark.ray
def test_answers_come_as_a_stream(client: Any) -> None:
    for include_usage in (False, True):
        options = {"stream_options": {"include_usage": True}} if include_usage else {}
        chunks = list(chat(client, "what is it?", data_url(RED), stream=True, **options))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text.startswith("user | ['30x20 RGB (255, 0, 0)'] | what is it? | ")
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert [c.usage.total_tokens for c in chunks if c.usage] == ([10] if include_usage else [])


@pytest.mark.ray
def test_chat_clients_as_they_come(client: Any) -> None:
    """System and developer messages, every setting, several answers."""
    messages = [{"role": "system", "content": "be brief"}, {"role": "developer", "content": ""}]
    response = client.chat.completions.create(
        model="remora", messages=[*messages, {"role": "user", "content": "hi"}], n=2, temperature=0.7, seed=3
    )
    assert [c.message.content.split(" | ")[0] for c in response.choices] == ["system,user"] * 2
    said = chat(client, "settings", max_tokens=9, temperature=0.5, top_p=0.9, stop=["."], seed=3, presence_penalty=1.0)
    assert said.choices[0].message.content == str(
        VersionedRequest((), 9, 0.5, 0.9, seed=3, stop=(".",), presence_penalty=1.0, version="3", streamed=False)
    )


@pytest.mark.ray
def test_an_offer_of_http_2_is_answered_over_http_1(server: Server) -> None:
    body = json.dumps(HI).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        f"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.sendall(head.encode() + body)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.ray
def test_slow_uploads_stop_nobody(server: Server, client: Any) -> None:
    """More of them than the replicas and the queue have room for."""
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
    )
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(60)]
    try:
        for each in slow:
            each.sendall(head.encode())
        assert httpx.get(f"{server.url}/healthz", timeout=10).json()["status"] == "ok"
        assert chat(client, "hi").choices[0].message.content.startswith("user | [] | hi | ")
    finally:
        for each in slow:
            each.close()


@pytest.mark.ray
def test_requests_of_any_shape_get_no_5xx(server: Server) -> None:
    """A few of the thousands that tests/fuzz/test_fuzz_requests.py tries without Ray."""
    draw = random.Random(5)
    with httpx.Client(base_url=server.url, timeout=30) as raw:
        for body in (request(draw) for _ in range(60)):
            response = raw.post(CHAT, content=body, headers={"content-type": "application/json"})
            assert response.status_code in (200, 400, 404, 413), (body[:200], response.text)
            if response.status_code != 200:
                error = response.json()["error"]
                assert set(error) == {"message", "type", "param", "code"} and "Traceback" not in error["message"]
        assert raw.get("/healthz").json()["status"] == "ok"


def pids(client: Any, questions: list[str]) -> list[str]:
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = pool.map(lambda q: chat(client, q).choices[0].message.content, questions)
        return [a.rsplit(" | ", 1)[1] for a in answers]


@pytest.mark.ray
def test_a_burst_is_answered_by_two_replicas(client: Any) -> None:
    assert len(set(pids(client, [f"question {i}" for i in range(40)]))) == 2


@pytest.mark.ray
def test_a_killed_replica_is_replaced(server: Server, client: Any, tmp_path: Path) -> None:
    """And no request fails, although it may have been on its way to the one that died, or in its model."""
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(chat, client, f"{HELD}{tmp_path}") for _ in range(16)]
        holds = until("a question in the model", lambda: list(tmp_path.iterdir()))[0]
        killed = holds.name.partition("-")[0]
        os.kill(int(killed), signal.SIGKILL)
        (tmp_path / "go").touch()
        for each in waiting:
            answered_by = each.result().choices[0].message.content.rsplit(" | ", 1)[1]
            assert answered_by.isdecimal() and answered_by != killed
    questions = [f"question {i}" for i in range(16)]
    until("two replicas", lambda: len(set(pids(client, questions)) - {killed}) == 2)


@pytest.mark.ray
def test_the_clients_of_our_own(server: Server, tmp_path: Path) -> None:
    picture = tmp_path / "a picture.png"
    RED.save(picture)
    expected = "user | ['30x20 RGB (255, 0, 0)'] | $what's it? | "
    assert ask(server.url, picture, "$what's it?").startswith(expected)
    command = curl_command(server.url, picture, "$what's it?")
    assert expected in subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert ask(f"{server.url}/v1/", picture, "hi").startswith("user | ")
    with pytest.raises(ServingError, match="status 400: This model's maximum context length is 512"):
        ask(server.url, picture, "too long")
    with pytest.raises(ServingError, match=r"no answer .*; next: remora serve"):
        ask("http://127.0.0.1:9", picture, "hi")


@pytest.mark.ray
def test_the_examples_of_the_docs(server: Server, tmp_path: Path) -> None:
    """Each command verbatim, except for the port, in a folder with a picture.png."""
    RED.save(tmp_path / "picture.png")
    found = []
    for language, example in (each for each in examples() if each[0] != "yaml"):
        example = example.replace("http://127.0.0.1:8000/", f"{server.url}/")
        assert example.count(server.url) == 1
        run = ["bash", "-c"] if language == "sh" else [sys.executable, "-W", "error", "-c"]
        env = os.environ | {"REMORA_KEY": "none"}  # keys are off here
        ran = subprocess.run([*run, example], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, ""), example
        found.append((language, ran.stdout))
    assert [language for language, _ in found] == ["sh", "python", "python"]
    curl, openai, own = (said for _, said in found)
    assert openai.startswith("system,user | [] | What is a remora? | ")
    for said in (json.loads(curl)["choices"][0]["message"]["content"], own):
        assert said.startswith("user | ['30x20 RGB (255, 0, 0)'] | What is in the picture? | ")


@pytest.mark.ray
def test_sigterm_lets_requests_in_flight_finish(server: Server, client: Any, tmp_path: Path) -> None:
    """The last test of this server."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(chat, client, f"{HELD}{tmp_path}")
        until("the question in the model", lambda: list(tmp_path.iterdir()))
        server.process.send_signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert server.stop().endswith("STOPPED\n")
        assert answer.result().choices[0].message.content.startswith(f"user | [] | {HELD}{tmp_path} | ")
    assert server.process.returncode == 0
    for told in filter(None, server.told):
        if told.status_code != 200:
            assert told.status_code == 503 and told.json()["error"]["code"] in ("not_ready", "no_replica"), told.text
            assert int(told.headers["retry-after"]) > 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/healthz")


@pytest.mark.ray
def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    server = Server(tmp_path, alias="broken")
    try:
        assert server.process.wait(180) == 1
        last = server.log.read_text().strip().splitlines()[-1]
        assert last == "remora.errors.DataError: the bundle is torn; next: remora train"
    finally:
        server.stop()
