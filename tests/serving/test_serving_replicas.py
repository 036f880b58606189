"""Ingress and engine replicas on Ray Serve, with a real model: what dies or hangs costs no request."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from remora.files import is_held
from remora.inference.bundle import serving_lock
from remora.serving.metrics import METRICS
from support import serving_small
from support.ports import free_port
from support.serving_fake import data_url
from support.small_answerers import pictures
from support.waiting import until

SMALL = Path(serving_small.__file__)


@dataclass
class Small:
    """The endpoint and the folder in which its engine replicas say who they are."""

    url: str
    folder: Path
    client: Any
    metrics: str
    """Where Ray exports the figures of its workers."""
    process: int

    def engines(self) -> set[int]:
        """Process ids of the engine replicas that live."""
        return {int(p.name) for p in self.folder.iterdir() if p.name.isdecimal() and Path(f"/proc/{p.name}").exists()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    from openai import OpenAI

    folder, port = tmp_path_factory.mktemp("engines"), free_port()
    log, url = folder / "log", f"http://127.0.0.1:{port}"
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(SMALL.parents[1])}
    with log.open("w") as out:
        command = [sys.executable, str(SMALL), str(port), str(folder)]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
    try:
        until("the endpoint", lambda: "READY" in log.read_text() or process.poll() is not None, 0.2)
        assert process.poll() is None, log.read_text()
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
            metrics = log.read_text().partition("METRICS ")[2].split()[0]
            yield Small(url, folder, client, f"http://127.0.0.1:{metrics}/metrics", process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    assert not is_held(served(folder))


def served(folder: Path) -> Path:
    """By which `remora runs` sees that the bundle is served."""
    return serving_lock(folder / "runs" / "bundles" / "small")


def question(i: int, tokens: int = 30) -> dict[str, Any]:
    """Greedy and sampled ones, with and without pictures."""
    content: list[dict[str, Any]] = [{"type": "text", "text": "What is this?" + " Is it blue?" * (i % 3)}]
    if i % 2:
        content.append({"type": "image_url", "image_url": {"url": data_url(pictures(5)[i % 5])}})
    warm = {"temperature": 0.3, "seed": i} if i % 4 > 1 else {"temperature": 0}
    return {"model": "remora", "messages": [{"role": "user", "content": content}], "max_tokens": tokens, **warm}


def ask(client: Any, asked: dict[str, Any], stream: bool) -> tuple[str, str, int]:
    """Text, end and tokens of an answer."""
    if not stream:
        response = client.chat.completions.create(**asked)
        choice = response.choices[0]
        return choice.message.content, choice.finish_reason, response.usage.completion_tokens
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    end = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1]
    return text, end, chunks[-1].usage.completion_tokens


def ask_all(small: Small, count: int, meanwhile: Any = None, streams: bool = True) -> list[tuple[str, str, int]]:
    """Half of the answers are streamed; `meanwhile` is called when some are on their way."""
    begun = threading.Semaphore(0)

    def one(i: int) -> tuple[str, str, int]:
        begun.release()
        return ask(small.client, question(i), stream=streams and i % 8 < 4)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(one, i) for i in range(count)]
        if meanwhile is not None:
            for _ in range(count // 2):
                begun.acquire()
            meanwhile()
        return [each.result() for each in waiting]


@pytest.mark.ray
def test_questions_about_a_picture_go_to_the_replica_that_has_read_it(small: Small) -> None:
    """Of eight pictures, each asked about together with the others in another order every time."""
    draw, shown = random.Random(3), [data_url(each.transpose(Image.Transpose.ROTATE_90)) for each in pictures(8)]

    def cached(url: str, words: str) -> int:
        content = [{"type": "text", "text": words}, {"type": "image_url", "image_url": {"url": url}}]
        body: dict[str, Any] = {"model": "remora", "messages": [{"role": "user", "content": content}]}
        return int(
            small.client.chat.completions.create(**body, max_tokens=20).usage.prompt_tokens_details.cached_tokens
        )

    found = []
    with ThreadPoolExecutor(8) as pool:
        for words in ("What?", "Is it blue?", "What is this?", "What is this? What?"):
            draw.shuffle(shown)
            found.append(set(pool.map(cached, shown, [words] * 8)))
    assert found[1] == found[2] == found[3] and len(found[1]) == 1, "read once, by one replica"
    assert max(found[0]) < min(found[1])


@pytest.mark.ray
def test_engine_replicas_export_their_figures_by_ray(small: Small) -> None:
    ask(small.client, question(1), stream=False)

    def exported() -> set[str]:
        lines = httpx.get(small.metrics, timeout=30).text.splitlines()
        return {
            line.partition("{")[0] for line in lines if line.startswith("ray_vllm_") and 'model_name="remora"' in line
        }

    until("the figures", lambda: "ray_vllm_generation_tokens_total" in exported(), 1)
    ends = {"gauge": "", "counter": "_total", "histogram": "_sum"}
    expected = {f"ray_vllm_{name}{ends[metric.kind]}" for name, metric in METRICS.items()}
    assert expected - exported() <= {"ray_vllm_prefix_cache_hits_total"}, "which may be 0"


@pytest.mark.ray
def test_a_killed_engine_costs_no_request_and_changes_no_answer(small: Small) -> None:
    expected = ask_all(small, 40)
    assert len({text for text, _, _ in expected}) > 10 and max(tokens for _, _, tokens in expected) > 20
    killed = min(small.engines())
    found = ask_all(small, 40, lambda: os.kill(killed, signal.SIGKILL))
    assert found == expected and is_held(served(small.folder))
    until("two replicas", lambda: len(small.engines()) == 2)
    assert killed not in small.engines()


@pytest.mark.ray
@pytest.mark.parametrize("streams", [False, True])
def test_a_killed_ingress_costs_no_request(small: Small, streams: bool) -> None:
    """Streams that it has begun go on behind what their clients have."""

    def ingress() -> list[int]:
        workers = psutil.Process(small.process).children(recursive=True)
        return [each.pid for each in workers if ":Endpoint" in " ".join(each.cmdline())]

    expected = ask_all(small, 16, streams=streams)
    (killed,) = ingress()
    assert ask_all(small, 16, lambda: os.kill(killed, signal.SIGKILL), streams=streams) == expected
    assert killed not in ingress()


@pytest.mark.ray
def test_an_engine_that_hangs_is_replaced_and_costs_no_request(small: Small) -> None:
    until("two replicas", lambda: len(small.engines()) == 2)
    expected = ask_all(small, 24)
    hangs = min(small.engines())
    found = ask_all(small, 24, (small.folder / f"hang-{hangs}").touch)
    assert found == expected
    until("its end", lambda: hangs not in small.engines())
    until("another one", lambda: len(small.engines()) == 2)


@pytest.mark.ray
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_is_cancelled_in_its_engine(small: Small, stream: bool) -> None:
    """In the middle of an answer of 900 steps, which takes 18 s."""
    from openai import APITimeoutError

    before = set(small.folder.glob("cancelled-*"))
    asked = question(0, 900) | {"logit_bias": {str(serving_small.small_answerer().stop_id): -100}}
    for _ in range(3):
        if stream:
            with small.client.chat.completions.create(**asked, stream=True) as chunks:
                next(iter(chunks))
        else:
            with pytest.raises(APITimeoutError):
                small.client.with_options(timeout=1.0).chat.completions.create(**asked)
    until("three cancelled", lambda: len(set(small.folder.glob("cancelled-*")) - before) == 3)
