"""The champion moves while clients ask: no request fails, each answer is its version's own, a broken version changes
nothing. With a real registry, real models, Ray Serve and OpenAI's client."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from remora.files import MANIFEST, publishing
from remora.inference import Answerer, Message, Request
from remora.tracking import Tracker, register, version_info
from support import serving_champion
from support.noise import write_noise
from support.ports import free_port
from support.serving_fake import data_url
from support.small_answerers import pictures
from support.waiting import until

CHAMPION = Path(serving_champion.__file__)
TOKENS = 24
CLIENTS = 3
MOST = 4000
"""Requests of a client at most."""


@dataclass(frozen=True)
class Asked:
    """A question, whether its answer is streamed, and what came."""

    question: int
    stream: bool
    fingerprint: str
    text: str


class Clients:
    """Clients that ask without a pause, from `with` on to its end."""

    def __init__(self, url: str) -> None:
        self.url, self.answers = url, list[Asked]()
        self._stop = threading.Event()

    def __enter__(self) -> Clients:
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._running: list[Future[None]] = [self._pool.submit(self._ask_on, client) for client in range(CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self._pool:
            for each in self._running:
                each.result()  # whatever failed

    def wait_for(self, what: str, *versions: str, count: int = 12) -> None:
        """Wait for more answers, all of them of these versions, which is what is expected."""
        before = len(self.answers)
        until(what, lambda: len(self.answers) >= before + count or any(each.done() for each in self._running), 0.05)
        assert {one.fingerprint for one in self.answers[before + CLIENTS :]} <= set(versions)

    def _ask_on(self, client: int) -> None:
        from openai import OpenAI

        with OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60) as openai:
            for i in range(client, MOST, CLIENTS):
                if self._stop.is_set():
                    return
                self.answers.append(self._ask(openai, i % len(QUESTIONS), stream=i % 2 > 0))

    def _ask(self, openai: Any, question: int, stream: bool) -> Asked:
        text, picture = QUESTIONS[question]
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if picture is not None:
            content.append({"type": "image_url", "image_url": {"url": data_url(SHOWN[picture])}})
        body = {"model": "remora", "messages": [{"role": "user", "content": content}], "max_tokens": TOKENS}
        if not stream:
            whole = openai.chat.completions.create(**body)
            return Asked(question, stream, whole.system_fingerprint, whole.choices[0].message.content)
        chunks = list(openai.chat.completions.create(**body, stream=True))
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")
        assert len({chunk.system_fingerprint for chunk in chunks}) == 1, "an answer keeps its version"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return Asked(question, stream, chunks[0].system_fingerprint, text)


SHOWN = pictures(3)
QUESTIONS = [
    ("What is this?", 0),
    ("Which of these is it: a, b or c?", 1),
    ("What is this?", None),
    ("a red circle", 2),
]


def own_answers(folder: Path) -> list[str]:
    answerer = Answerer.load(folder)
    turns = [[Message("user", text, () if n is None else (SHOWN[n],))] for text, n in QUESTIONS]
    return [answerer.answer_alone(Request(turn, TOKENS)).text for turn in turns]


def without_numbers(folder: Path, made: Path) -> Path:
    """The same bundle with a connector whose weights are NaN: it loads, and reads no picture."""
    with publishing(made) as to:
        shutil.copytree(folder, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        (file,) = (to / "connector").glob("*.safetensors")
        save_file({name: torch.full_like(weight, torch.nan) for name, weight in load_file(file).items()}, file)
    return made


@pytest.fixture
def endpoint(tmp_path: Path, empty_database: Path) -> Iterator[tuple[str, Tracker, Path]]:
    """The URL of an endpoint that serves version 1, its registry, and its log."""
    tracker = Tracker(tmp_path / "runs")
    tracker.runs.mkdir()
    shutil.copy(empty_database, tracker.runs / "mlflow.db")
    assert register(tracker, "remora", "variant/one", write_noise(tmp_path, "one", 1)) == "1"
    port, log = free_port(), tmp_path / "log"
    env = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    with log.open("w") as out:
        command = [sys.executable, str(CHAMPION), str(port), str(tracker.runs)]
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=env | {"PYTHONPATH": str(CHAMPION.parents[1])}
        )
    try:
        until("the endpoint", lambda: "READY" in log.read_text() or process.poll() is not None, 0.2)
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}", tracker, log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    assert "STOPPED" in log.read_text()


@pytest.mark.ray
def test_a_champion_that_moves_under_load_costs_no_request(endpoint: tuple[str, Tracker, Path], tmp_path: Path) -> None:
    url, tracker, _ = endpoint
    one, two = tmp_path / "one", write_noise(tmp_path, "two", 2)
    expected = {"remora@1": own_answers(one), "remora@2": own_answers(two)}
    assert len({*expected["remora@1"], *expected["remora@2"]}) > len(QUESTIONS), "so that they tell which is which"

    def told() -> dict[str, Any]:
        return dict(httpx.get(f"{url}/version", timeout=60).json())

    def refused(version: str) -> bool:
        return (told()["refused"] or {}).get("version") == version

    with Clients(url) as clients:
        clients.wait_for("answers of the first version", "remora@1")
        assert register(tracker, "remora", "variant/two", two) == "2"
        until("the second version", lambda: told()["version"] == "2", 0.1)
        clients.wait_for("its answers", "remora@2")
        until("the end of the first one", lambda: told()["draining"] == [], 0.1)

        assert register(tracker, "remora", "variant/torn", write_noise(tmp_path, "torn", 3), alias=None) == "3"
        source = tracker.server.local(version_info(tracker, "remora", "3")["source"])
        assert source is not None
        next((source / "llm").glob("*.safetensors")).unlink()
        with tracker.client() as client:
            client.set_registered_model_alias("remora", "champion", "3")
        until("the refusal of torn files", lambda: refused("3"), 0.1)
        clients.wait_for("answers all the same", "remora@2")

        assert register(tracker, "remora", "variant/nan", without_numbers(two, tmp_path / "nan")) == "4"
        until("the refusal of a version without numbers", lambda: refused("4"), 0.1)
        clients.wait_for("answers all the same", "remora@2")

    assert {one.fingerprint for one in clients.answers} == set(expected)
    assert {(one.fingerprint, one.stream) for one in clients.answers} == {
        (f, s) for f in expected for s in (True, False)
    }
    for each in clients.answers:
        assert each.text == expected[each.fingerprint][each.question]
    state = told()
    assert (state["version"], state["draining"]) == ("2", [])
    assert state["refused"] == {
        "version": "4",
        "reason": "it answers a probe with nothing",
    }  # its first token is the end
    metrics = httpx.get(f"{url}/metrics", timeout=60).text
    assert 'remora:served_version{model_name="remora",role="stable",version="2"} 1.0' in metrics
    assert 'remora:refused_version{model_name="remora",version="4"} 1.0' in metrics
