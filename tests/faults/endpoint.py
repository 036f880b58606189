"""A live endpoint of two engine replicas under load, for the scorecard of serving: what clients saw of a fault."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from openai import OpenAI

from support import serving_small
from support.ports import free_port
from support.serving_fake import data_url
from support.small_answerers import pictures
from support.waiting import until

SMALL = Path(serving_small.__file__)
CLIENTS = 8
STARTS = 5
"""Of Ray, on a machine that is too busy for it."""
QUESTIONS = 24
ENGINE, INGRESS, PICTURES = ":ModelReplica", ":Endpoint", "remora.serving.picture_worker"
PROXY = "ray::ProxyActor"
"""Of the titles of processes."""


def question(i: int, tokens: int = 30) -> dict[str, Any]:
    """Greedy and sampled ones, half of them with a picture."""
    content: list[dict[str, Any]] = [{"type": "text", "text": "What is this?" + " Is it blue?" * (i % 3)}]
    if i % 2:
        content.append({"type": "image_url", "image_url": {"url": data_url(pictures(5)[i % 5])}})
    warm = {"temperature": 0.3, "seed": i} if i % 4 > 1 else {"temperature": 0}
    return {"model": "remora", "messages": [{"role": "user", "content": content}], "max_tokens": tokens, **warm}


class LiveEndpoint:
    """`serving_small.py` in a process of its own, with Ray; or another `script`, which gets a port and `told`."""

    def __init__(self, folder: Path, script: Path = SMALL, told: Path | None = None) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True)
        self._command = [sys.executable, str(script), str(self.port), str(told or folder)]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        for _ in range(STARTS):
            self._start()
            if self.process.poll() is None:
                return
            if "Ray did not start on this machine" not in self.log.read_text():  # its raylet waits 15 s for a process
                break
        raise AssertionError(self.log.read_text())

    def _start(self) -> None:
        self.log = self.folder / f"log-{time.monotonic_ns()}"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))} | {
            "PYTHONPATH": str(SMALL.parents[1])
        }
        with self.log.open("w") as out:
            self.process = subprocess.Popen(self._command, stdout=out, stderr=subprocess.STDOUT, env=env)
        until("the endpoint", lambda: "READY" in self.log.read_text() or self.process.poll() is not None, 0.2)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(200)

    def client(self, retries: int = 0) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=retries, timeout=120)

    def processes(self, title: str) -> list[psutil.Process]:
        """The endpoint's processes whose command line has `title`."""
        found = []
        for one in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if title in " ".join(one.cmdline()):
                    found.append(one)
            except psutil.Error:
                continue
        return found

    def pids(self, title: str) -> set[int]:
        return {one.pid for one in self.processes(title)}

    def loaded(self) -> set[int]:
        written = {int(p.name) for p in self.folder.iterdir() if p.name.isdecimal()}
        return {pid for pid in written if psutil.pid_exists(pid)}

    def memory(self) -> int:
        """Resident bytes of the proxy, the replicas and the processes that read pictures."""
        total = 0
        for title in (ENGINE, INGRESS, PICTURES, PROXY):
            for one in self.processes(title):
                try:
                    total += one.memory_info().rss
                except psutil.Error:
                    continue
        return total


@dataclass
class Asked:
    """One request as its client saw it."""

    began: float
    took: float
    number: int
    stream: bool
    text: str = ""
    failed: str = ""

    @property
    def ended(self) -> float:
        return self.began + self.took


def ask(client: OpenAI, i: int, stream: bool) -> Asked:
    began = time.monotonic()
    asked = Asked(began, 0, i, stream)
    try:
        if stream:
            with client.chat.completions.create(**question(i), stream=True) as chunks:
                for chunk in chunks:
                    asked.text += chunk.choices[0].delta.content or ""
        else:
            asked.text = str(client.chat.completions.create(**question(i)).choices[0].message.content)
    except Exception as e:  # noqa: BLE001 (a stream that breaks off is an error of the HTTP library that openai has)
        asked.failed = f"{type(e).__name__} {getattr(e, 'status_code', '')}".strip()
    asked.took = time.monotonic() - began
    return asked


def idle_answers(live: LiveEndpoint) -> list[str]:
    """The answers to all questions, asked one after the other."""
    with live.client() as client:
        found = [ask(client, i, stream=False) for i in range(QUESTIONS)]
    assert not any(one.failed for one in found) and len({one.text for one in found}) > 8
    return [one.text for one in found]


@dataclass
class Load:
    """CLIENTS that ask, one question after the other, until the block ends. `streams`: half of them in pieces."""

    live: LiveEndpoint
    streams: bool = True
    retries: int = 0
    done: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop, self._client = threading.Event(), self.live.client(self.retries)
        self._threads = [threading.Thread(target=self._go, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(300)
        self._client.close()

    def _go(self, number: int) -> None:
        draw = random.Random(number)
        while not self._stop.is_set():
            asked = ask(self._client, draw.randrange(QUESTIONS), self.streams and number % 2 == 0)
            self.done.append(asked)
            if asked.failed:
                self._stop.wait(0.2)

    def answered(self, count: int, since: float = 0.0) -> None:
        """Wait until so many requests that began after `since` have ended."""
        until(f"{count} answers", lambda: sum(one.began > since for one in self.done) >= count)

    def failed(self) -> Counter[str]:
        return Counter(one.failed for one in self.done if one.failed)

    def changed(self, *expected: list[str]) -> int:
        """Whole answers that are none of those of an idle endpoint."""
        return sum(one.text not in [each[one.number] for each in expected] for one in self.done if not one.failed)

    def longest(self) -> float:
        return max(one.took for one in self.done)


@dataclass
class Overload:
    """An open loop: requests come at `rate` a second, whatever becomes of them. Clients do not try again.

    Bodies are made beforehand and aiohttp sends them: the `openai` client takes 5 ms of the machine's processors a
    request, too much for a rate that is to hold.
    """

    live: LiveEndpoint
    rate: float
    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    """Of the endpoint, a second apart."""
    replicas: list[int] = field(default_factory=list)
    """Ingress replicas, which scale with the load, at the same times."""
    longest: float = 0.0
    waits: int = 0
    """429s that say when to come again."""
    sent_in: float = 0.0
    """Seconds from the first request to the last one's beginning: more than `seconds` where the sender was held up."""

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        asked = bodies()
        async with clients(self.live) as client:
            loop = asyncio.get_running_loop()
            began, going, watch = loop.time(), set[asyncio.Task[None]](), asyncio.create_task(self._watch())
            for i in range(int(self.rate * self.seconds)):
                await asyncio.sleep(max(0.0, began + i / self.rate - loop.time()))
                task = asyncio.create_task(self._one(client, asked[i % QUESTIONS]))
                going.add(task)
                task.add_done_callback(going.discard)
            self.sent_in = loop.time() - began
            await asyncio.gather(*going)
            watch.cancel()

    async def _one(self, client: aiohttp.ClientSession, body: bytes) -> None:
        began = time.monotonic()
        try:
            async with client.post("/v1/chat/completions", data=body) as response:
                whole = await response.read()
        except (aiohttp.ClientError, TimeoutError):  # no answer
            self.statuses[0] += 1
        else:
            self.statuses[response.status] += 1
            self.waits += response.status == 429 and "retry-after" in response.headers
            assert response.status != 200 or json.loads(whole)["choices"][0]["finish_reason"], whole
        self.longest = max(self.longest, time.monotonic() - began)

    async def _watch(self) -> None:
        while True:
            self.memory.append(await asyncio.to_thread(self.live.memory))
            self.replicas.append(len(await asyncio.to_thread(self.live.pids, INGRESS)))
            await asyncio.sleep(1)


def bodies() -> list[bytes]:
    return [json.dumps(question(i)).encode() for i in range(QUESTIONS)]


def clients(live: LiveEndpoint) -> aiohttp.ClientSession:
    """As many connections as there are requests under way."""
    return aiohttp.ClientSession(
        live.url,
        headers={"content-type": "application/json"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=200),
    )


def capacity(live: LiveEndpoint, seconds: float, at_once: int = 40) -> float:
    """Answers a second of an endpoint that always has `at_once` requests."""
    done, asked = 0, bodies()

    async def go() -> None:
        nonlocal done
        end = time.monotonic() + seconds
        async with clients(live) as client:

            async def one(first: int) -> None:
                nonlocal done
                i = first
                while time.monotonic() < end:
                    async with client.post("/v1/chat/completions", data=asked[i % QUESTIONS]) as response:
                        await response.read()
                    done += response.status == 200 and time.monotonic() < end
                    i += 7

            await asyncio.gather(*(one(i) for i in range(at_once)))

    asyncio.run(go())
    return done / seconds


def seconds_until(found: Callable[[], object], what: str) -> float:
    began = time.monotonic()
    until(what, found)
    return time.monotonic() - began
