"""Pictures are read in other processes, as in this one; what ends such a process costs its own request alone."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from remora.serving import chat, picture_pool
from remora.serving.args import EndpointArgs, IngressArgs, Limits
from remora.serving.images import decode
from remora.serving.openai_api import Refusal
from remora.serving.picture_pool import PicturePool
from support import picture_faults
from support.picture_faults import faulty
from support.serving_fake import CHAT, as_url, data_url, fake_api
from support.waiting import until

LIMITS = Limits()
SMALL = 2**26
"""Bytes of memory that reading may take here."""


@pytest.fixture(scope="module")
def pool() -> Iterator[PicturePool]:
    made = PicturePool(2, 1.0, SMALL)
    made.start()
    yield made
    made.close()


def shown(width: int, height: int = 3, kind: str = "PNG") -> str:
    return data_url(Image.effect_noise((width, height), 90).convert("RGB"), kind)


def refused(pool: PicturePool, *urls: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        pool.decode(urls, LIMITS, faulty)
    return caught.value


def test_pictures_are_those_that_this_process_would_read(pool: PicturePool) -> None:
    urls = [shown(200, 90, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")]
    found, expected = (read(urls, LIMITS, Image.Image.copy) for read in (pool.decode, decode))
    assert [(one.mode, one.size, one.tobytes()) for one in found] == [
        (one.mode, one.size, one.tobytes()) for one in expected
    ]


@pytest.mark.parametrize(
    "urls",
    [
        ["file:///etc/passwd"],
        [as_url(b"no picture")],
        [shown(20), as_url(b"")],
        [shown(1)],
        [shown(20, 20 * 70)],
        [shown(20)] * 9,
        [data_url(Image.new("RGB", (9000, 5000)))],
    ],
)
def test_refusals_are_those_of_this_process(pool: PicturePool, urls: list[str]) -> None:
    with pytest.raises(Refusal) as expected:
        decode(urls, LIMITS)
    found = refused(pool, *urls)
    assert found.body() == expected.value.body() and found.status == 400


def test_a_picture_that_crashes_its_process_is_refused_and_named(pool: PicturePool) -> None:
    before = set(pool.pids)
    found = refused(pool, shown(20), shown(picture_faults.CRASHES))
    assert (found.status, found.code) == (400, "invalid_image")
    assert str(found) == "image 2: it ends the process that reads it"
    assert len(set(pool.pids) - before) == 1 and len(pool.pids) == 2, "there is another one"
    assert pool.decode([shown(20)], LIMITS, faulty)


@pytest.mark.slow
def test_memory_is_limited(pool: PicturePool) -> None:
    lost = pool.lost
    found = refused(pool, shown(picture_faults.MEMORY))
    assert (found.status, found.code) == (400, "image_too_large") and "more memory" in str(found)
    big = data_url(Image.new("RGB", (7000, 5000)), "PNG")  # 105 MB of pixels
    assert refused(pool, big).code == "image_too_large"
    assert refused(pool, data_url(Image.new("RGB", (7000, 5000)), "WEBP", lossless=True)).status == 400
    assert decode([big], LIMITS) and pool.lost == lost, "by an error, not by a crash"


@pytest.mark.slow
def test_time_is_limited(pool: PicturePool) -> None:
    found = refused(pool, shown(20), shown(picture_faults.SLOW))
    assert (found.status, found.code) == (400, "image_timeout")
    assert str(found) == "image 2: reading it takes more than 1 s; send a smaller one"


def test_a_fault_of_ours_is_told_as_one_and_keeps_the_process(pool: PicturePool) -> None:
    before = pool.pids
    with pytest.raises(RuntimeError, match=r"^reading a picture failed with ZeroDivisionError$"):
        pool.decode([shown(picture_faults.RAISES)], LIMITS, faulty)
    assert pool.pids == before


def test_a_process_has_no_keys_and_starts_no_others(pool: PicturePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMORA_KEY", "secret")
    alone = PicturePool(1, 1.0, SMALL)
    (told,) = alone.decode([shown(picture_faults.ENVIRONMENT)], LIMITS, faulty)
    assert told.getpixel((0, 0)) == (0, 0, 7)
    if os.geteuid():  # root may
        with pytest.raises(RuntimeError, match="BlockingIOError"):
            alone.decode([shown(picture_faults.FORKS)], LIMITS, faulty)
    (pid,) = alone.pids
    del alone
    until("its end", lambda: not Path(f"/proc/{pid}").exists())


def test_a_process_that_dies_by_itself_costs_no_request(pool: PicturePool) -> None:
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    for _ in range(3):
        assert pool.decode([shown(20)], LIMITS, faulty)


@pytest.mark.slow
def test_a_process_that_hangs_is_replaced(pool: PicturePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by a signal: its request is answered by another one. One that never goes on asks for another try."""
    monkeypatch.setattr(picture_pool, "STARTED_S", 4.0)
    for pid in pool.pids:
        os.kill(pid, signal.SIGSTOP)
    assert pool.decode([shown(20)], LIMITS, faulty)
    found = refused(pool, shown(picture_faults.HANGS))
    assert (found.status, found.code, found.retry_after) == (503, "not_ready", 2)


def test_a_machine_that_starts_no_process_asks_for_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = PicturePool(1, 1.0, SMALL)
    with monkeypatch.context() as broken:
        broken.setattr(picture_pool.sys, "executable", "/nowhere/python")
        assert refused(pool, shown(20)).status == 503
    assert pool.decode([shown(20)], LIMITS, faulty)
    pool.close()


@pytest.mark.slow
def test_many_requests_share_few_processes(pool: PicturePool) -> None:
    hostile = {3: picture_faults.CRASHES, 7: picture_faults.MEMORY, 11: picture_faults.CRASHES}

    def ask(i: int) -> tuple[int, int] | int:
        try:
            return pool.decode([shown(hostile.get(i, 20 + i))], LIMITS, faulty)[0].size
        except Refusal as refusal:
            return refusal.status

    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(ask, range(40)))
    assert found == [400 if i in hostile else (20 + i, 3) for i in range(40)]
    assert len(pool.pids) == 2


def test_slow_pictures_hold_up_no_text_and_too_many_are_asked_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    go, reading = threading.Event(), threading.Semaphore(0)

    class Slow:
        def decode(self, urls: list[str], limits: Limits, shrink: object) -> list[Image.Image]:
            reading.release()
            go.wait(600)
            return [Image.new("RGB", (2, 2)) for _ in urls]

    monkeypatch.setattr(chat, "shared", lambda *_: Slow())

    async def asked() -> None:
        app, engine = fake_api(EndpointArgs(ingress=IngressArgs(picture_processes=2, waiting_pictures=3)))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=600) as client:
            picture = {"type": "image_url", "image_url": {"url": shown(20)}}

            def post(*content: object) -> asyncio.Task[httpx.Response]:
                body = {"messages": [{"role": "user", "content": [*content, "what?"]}]}
                return asyncio.create_task(client.post(CHAT, json=body))

            waiting = [post(picture) for _ in range(5)]
            for _ in range(2):
                await asyncio.to_thread(reading.acquire)
            assert (await post()).status_code == 200
            refused = await post(picture)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error"]["code"] == "overloaded"
            go.set()
            assert [(await one).status_code for one in waiting] == [200] * 5
            assert (await post(picture)).status_code == 200
        await engine.drain()

    asyncio.run(asked())
