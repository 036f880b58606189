"""Canaries on Ray Serve: a good candidate takes over, bad ones go, and no client has a failed request."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from remora.serving.canary import journal
from remora.serving.canary.course import course_of
from support import serving_canary
from support.ports import free_port
from support.serving_fake import CHAT
from support.waiting import until

SCRIPT = Path(serving_canary.__file__)
KINDS = ("erring", "slow", "good")
CLIENTS = 6
USERS = 24
MOST = 2000


@dataclass
class Running:
    url: str
    runs: Path
    log: Path
    process: subprocess.Popen[str]
    asked: IO[str]

    def wait_for(self, kind: str) -> None:
        until(kind, lambda: f"READY {kind}" in self.log.read_text() or self.process.poll() is not None, 0.2)
        assert self.process.poll() is None, self.log.read_text()

    def next(self) -> None:
        self.asked.write("\n")
        self.asked.flush()

    def canary(self) -> dict[str, Any]:
        told: dict[str, Any] = httpx.get(f"{self.url}/version", timeout=30).json()["canary"]
        return told


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    runs, port = tmp_path_factory.mktemp("canary"), free_port()
    log = runs / "log"
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, str(SCRIPT), str(port), str(runs), *KINDS]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out, env=env, text=True)
    assert process.stdin is not None
    yield Running(f"http://127.0.0.1:{port}", runs, log, process, process.stdin)
    process.stdin.close()
    process.wait(120)


class Clients:
    """Users who ask without a pause, half of them streaming; each answer's version, by user."""

    def __init__(self, url: str) -> None:
        self.url, self.versions = url, defaultdict[str, list[str]](list)
        self._stop, self._turn = threading.Event(), threading.Lock()
        self._asked = 0

    def __enter__(self) -> Clients:
        self._pool = ThreadPoolExecutor(CLIENTS)
        self.running = [self._pool.submit(self._ask_on, i) for i in range(CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self._pool:
            for each in self.running:
                each.result()

    @property
    def failed(self) -> bool:
        return any(each.done() for each in self.running)

    def _ask_on(self, client: int) -> None:
        from openai import OpenAI

        with OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60) as openai:
            for i in range(MOST):
                if self._stop.is_set():
                    return
                user = f"user {client + CLIENTS * (i % (USERS // CLIENTS))}"
                self.versions[user].append(self._ask(openai, user, stream=i % 2 > 0))

    def _ask(self, openai: Any, user: str, stream: bool) -> str:
        body = {"model": "remora", "messages": [{"role": "user", "content": "Who are you?"}], "user": user}
        if not stream:
            whole = openai.chat.completions.create(**body)
            assert "Who are you?" in whole.choices[0].message.content
            return str(whole.system_fingerprint)
        chunks = list(openai.chat.completions.create(**body, stream=True))
        assert "Who are you?" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert chunks[-1].choices[0].finish_reason == "stop"
        return str(chunks[0].system_fingerprint)


def by_whom(running: Running) -> str:
    body = {"messages": [{"role": "user", "content": "Who?"}]}
    return str(httpx.post(running.url + CHAT, json=body, timeout=30).json()["system_fingerprint"])


@pytest.mark.ray
def test_bad_candidates_go_and_the_good_one_takes_over_without_a_failed_request(running: Running) -> None:
    for number, kind in enumerate(KINDS, 4):
        running.wait_for(kind)

        def decided() -> bool:
            now = running.canary()
            return (now["phase"] in ("rolled back", "promoted") and now["looks"] > 0) or clients.failed

        with Clients(running.url) as clients:
            until(f"the verdict on {kind}", decided, 0.2)
        found, kept = running.canary(), journal.last(running.runs, "remora")
        assert kept.candidate == str(number)
        again = course_of(kept.plan, kept.comparisons)
        assert again.looks == kept.looks and again.verdict == ("promote" if kind == "good" else "roll back"), kept.why
        seen = {version for versions in clients.versions.values() for version in versions}
        figures = httpx.get(f"{running.url}/metrics", timeout=30).text
        if kind != "good":
            assert (found["phase"], kept.phase, seen) == ("rolled back", "rolled back", {"remora@3"})
            why = {"erring": "errors: 1.000 against 0.000", "slow": "first token: "}
            assert kept.why.startswith("beyond its limit: ") and why[kind] in kept.why
            assert 'remora:canary_phase{model_name="remora",phase="rolled back"} 1.0' in figures
            assert not (running.runs / "promoted").exists()
            running.next()
            continue
        assert (found["phase"], kept.phase, found["share"]) == ("promoted", "promoted", 1.0)
        assert kept.why.startswith("within all limits") and kept.why.endswith("; the alias names it")
        assert (running.runs / "promoted").exists()
        assert seen == {"remora@3", "remora@6"}
        for versions in clients.versions.values():
            assert versions == sorted(versions), "a client that has the candidate stays with it"
        assert 'remora:canary_share{model_name="remora"} 1.0' in figures
        assert 'remora:served_version{model_name="remora",role="trial",version="6"} 1.0' in figures
        until("the ingress replica to hear of it", lambda: by_whom(running) == "remora@6")
    running.next()
