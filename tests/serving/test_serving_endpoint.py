"""The endpoint as clients see it: over Ray Serve with OpenAI's own client, and its HTTP rules without Ray."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import serving_fake
from PIL import Image
from serving_fake import CHAT, call, data_url

from remora.errors import ServingError
from remora.serving.args import EndpointArgs, Limits
from remora.serving.client import ask, curl_command
from remora.serving.deploy import serve_forever

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


def test_a_failure_of_the_model_tells_a_stranger_its_kind_alone() -> None:
    response = call("POST", CHAT, json={"messages": [{"role": "user", "content": "explode"}]})
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "the model failed with KeyError; see the replica's log"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/docs", 404), ("GET", CHAT, 405)])
def test_other_routes_answer_in_openais_shape(method: str, path: str, status: int) -> None:
    response = call(method, path)
    assert response.status_code == status
    assert "known: POST /v1/chat/completions" in response.json()["error"]["message"]


def test_a_port_in_use_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(ServingError, match=rf"127.0.0.1:{port} .*in use.*; next: --port {port + 1}"):
            serve_forever(EndpointArgs(), port=port)
        assert time.monotonic() - began < 1
    with pytest.raises(ServingError, match="found 80000"):
        serve_forever(EndpointArgs(), port=80_000)


class Server:
    """An endpoint in a process of its own."""

    def __init__(self, folder: Path, alias: str = "champion") -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "log"
        env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(FAKE), str(port), alias], stdout=out, stderr=subprocess.STDOUT, env=env
            )

    def wait_until_ready(self) -> None:
        end = time.monotonic() + 180
        while "READY" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)

    def stop(self) -> str:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.log.read_text()


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


@pytest.mark.e2e
def test_openais_client_asks_about_a_picture(client: Any) -> None:
    response = chat(client, "what is it?", data_url(RED), max_tokens=5, temperature=0)
    said = response.choices[0].message.content
    assert said.startswith("user | ['30x20 RGB (255, 0, 0)'] | what is it? | ")
    assert response.choices[0].finish_reason == "stop"
    assert (response.model, response.system_fingerprint) == ("share-Fake", "remora@3")
    assert (response.usage.prompt_tokens, response.usage.completion_tokens, response.usage.total_tokens) == (7, 3, 10)


@pytest.mark.e2e
def test_models_and_health(server: Server, client: Any) -> None:
    (model,) = client.models.list().data
    assert model.id == "share-Fake"
    assert model.metadata["version"] == "3" and model.metadata["names"] == ["remora", "share-Fake", "champion"]
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok", "model": "share-Fake", "version": "3"}


@pytest.mark.e2e
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
    with pytest.raises(openai.BadRequestError, match="stream: not supported"):
        chat(client, "hi", stream=True)
    with pytest.raises(openai.BadRequestError, match="too long; shorten it"):
        chat(client, "too long")
    with pytest.raises(openai.APIStatusError) as caught:
        chat(client, "x" * (21 * 2**20))
    assert caught.value.status_code == 413
    with pytest.raises(openai.InternalServerError, match="KeyError"):
        chat(client, "explode")


def pids(client: Any, questions: list[str]) -> list[str]:
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = pool.map(lambda q: chat(client, q).choices[0].message.content, questions)
        return [a.rsplit(" | ", 1)[1] for a in answers]


@pytest.mark.e2e
def test_a_burst_is_answered_by_two_replicas(client: Any) -> None:
    assert len(set(pids(client, [f"question {i}" for i in range(40)]))) == 2


@pytest.mark.e2e
def test_a_killed_replica_is_replaced(server: Server, client: Any) -> None:
    killed = pids(client, ["hi"])[0]
    os.kill(int(killed), signal.SIGKILL)
    end = time.monotonic() + 90
    found: set[str] = set()
    while len(found) < 2 and time.monotonic() < end:
        time.sleep(0.5)
        try:
            found = set(pids(client, [f"question {i}" for i in range(16)])) - {killed}
        except Exception as e:  # noqa: BLE001 requests that were on their way to the dead replica fail
            assert type(e).__name__ == "InternalServerError", e
    assert len(found) == 2


@pytest.mark.e2e
def test_the_clients_of_our_own(server: Server, tmp_path: Path) -> None:
    picture = tmp_path / "a picture.png"
    RED.save(picture)
    expected = "user | ['30x20 RGB (255, 0, 0)'] | $what's it? | "
    assert ask(server.url, picture, "$what's it?").startswith(expected)
    command = curl_command(server.url, picture, "$what's it?")
    assert expected in subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    with pytest.raises(ServingError, match="status 400: the prompt is too long"):
        ask(server.url, picture, "too long")
    with pytest.raises(ServingError, match=r"no answer .*; next: remora serve"):
        ask("http://127.0.0.1:9", picture, "hi")


@pytest.mark.e2e
def test_sigterm_lets_requests_in_flight_finish(server: Server, client: Any) -> None:
    """The last test of this server."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(chat, client, "sleep")
        time.sleep(0.5)
        assert server.stop().endswith("STOPPED\n")
        assert answer.result().choices[0].message.content.startswith("user | [] | sleep | ")
    assert server.process.returncode == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/healthz")


@pytest.mark.e2e
def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    server = Server(tmp_path, alias="broken")
    try:
        assert server.process.wait(180) == 1
        last = server.log.read_text().strip().splitlines()[-1]
        assert last == (
            "remora.errors.ServingError: the endpoint could not be deployed: "
            "DataError: the bundle is torn; next: remora train"
        )
    finally:
        server.stop()
