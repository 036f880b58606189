"""`engine: vllm` end to end: a registered bundle behind Ray Serve, its language model in vLLM's process.

With vLLM, by the Python of `make vllm` or the one that REMORA_VLLM_PYTHON names (skipped where there is none), and with
a stand-in for its process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI

from remora.inference import Answerer, Message, Request
from remora.inference.vllm.process import PYTHON
from remora.tracking import Tracker, register
from support import serving_champion
from support.noise import write_noise
from support.ports import free_port
from support.serving_fake import data_url
from support.small_answerers import pictures
from support.vllm_small import python_or_skip, standin
from support.waiting import until

CHAMPION = Path(serving_champion.__file__)
TOKENS = 24
COUNT = 12


@dataclass(frozen=True)
class VllmEndpoint:
    url: str
    process: psutil.Process
    folder: Path

    def workers(self) -> set[int]:
        """Processes that have the language model."""
        found = set()
        for one in self.process.children(recursive=True):
            try:
                words = " ".join(one.cmdline())
            except psutil.Error:
                continue
            if "vllm/start.py" in words or "vllm_standin.py" in words:
                found.add(one.pid)
        return found


@pytest.fixture(scope="module", params=["standin", pytest.param("vllm", marks=pytest.mark.slow)])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[VllmEndpoint]:
    root = tmp_path_factory.mktemp("served")
    python = standin(root) if request.param == "standin" else python_or_skip()
    tracker, folder = Tracker(root / "runs"), write_noise(root, channels=128)
    tracker.runs.mkdir()
    shutil.copy(empty_database, tracker.runs / "mlflow.db")
    register(tracker, "remora", "variant/noise", folder)
    port, log = free_port(), root / "log"
    env = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", PYTHON)}
    command = [sys.executable, str(CHAMPION), str(port), str(tracker.runs), "engine=vllm", f"vllm_python={python}"]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=env | {"PYTHONPATH": str(CHAMPION.parents[1])}
        )
    try:
        until("the endpoint", lambda: "READY" in log.read_text() or process.poll() is not None, 0.2)
        assert process.poll() is None, log.read_text()
        made = VllmEndpoint(f"http://127.0.0.1:{port}", psutil.Process(process.pid), folder)
        yield made
        left = made.workers()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(200)
    assert left and "STOPPED" in log.read_text()
    until("the end of vLLM's processes", lambda: not any(map(psutil.pid_exists, left)))


def settings(i: int) -> dict[str, Any]:
    return {"temperature": 0.7, "seed": i} if i % 3 == 2 else {}


def ask(client: OpenAI, i: int) -> str:
    content: list[dict[str, Any]] = [{"type": "text", "text": "Which of these is it: a, b or c?"}]
    if i % 2:
        content.append({"type": "image_url", "image_url": {"url": data_url(pictures(3)[i % 3])}})
    body: dict[str, Any] = {"model": "remora", "messages": [{"role": "user", "content": content}]}
    body |= {"max_tokens": TOKENS, **settings(i)}
    if i % 4 < 2:
        return str(client.chat.completions.create(**body).choices[0].message.content)
    with client.chat.completions.create(**body, stream=True) as chunks:
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@pytest.mark.ray
@pytest.mark.faults
def test_its_answers_are_the_models_own_also_when_its_process_is_killed(served: VllmEndpoint) -> None:
    answerer = Answerer.load(served.folder)
    turns = [
        [Message("user", "Which of these is it: a, b or c?", (pictures(3)[i % 3],) if i % 2 else ())]
        for i in range(COUNT)
    ]
    expected = [answerer.answer_alone(Request(turn, TOKENS, **settings(i))).text for i, turn in enumerate(turns)]
    assert len(set(expected)) > COUNT // 3
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda i: ask(client, i), range(COUNT))) == expected
            (killed,) = served.workers()
            asked = [pool.submit(ask, client, i) for i in range(COUNT)]
            os.kill(killed, signal.SIGKILL)
            assert [one.result() for one in asked] == expected
        assert served.workers() - {killed}
