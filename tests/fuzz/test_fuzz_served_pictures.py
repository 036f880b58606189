"""Hurt pictures sent to the endpoint: answered or refused, by processes that none of them ends or makes grow.

REMORA_FUZZ_CASES=100000 python -m pytest tests/fuzz/test_fuzz_served_pictures.py
"""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import psutil
from cases import cases
from PIL import Image
from test_fuzz_pictures import case

from remora.serving.args import EndpointArgs, Limits
from remora.serving.openai_api import Refusal
from remora.serving.picture_pool import PicturePool
from support.serving_fake import CHAT, as_url, fake_api

FORMS = ("PNG", "JPEG", "WEBP", "GIF", "MPO", "BMP", "TIFF")
"""Those that are read, and some that are not."""
GROWTH = 32 << 20
BY_HTTP = 10
"""One of so many is sent by HTTP, too."""


def resident(pool: PicturePool) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in pool.pids)


def test_no_picture_ends_its_process_or_makes_it_grow() -> None:
    pool, limits, count = PicturePool(1, 10.0, 2**30), Limits(), cases(400)
    pool.start()
    read: Counter[str] = Counter()
    warm = 0
    for seed in range(count):
        form, content = case(seed, FORMS)
        try:
            (picture,) = pool.decode([as_url(content)], limits, Image.Image.copy)
        except Refusal as refusal:
            told = str(refusal)
            assert (refusal.status, refusal.param) == (400, "messages"), (seed, told)
            assert "\n" not in told and len(told) < 250 and " at 0x" not in told, (seed, told)
            assert refusal.code in ("invalid_image", "image_size", "image_too_large"), (seed, refusal.code)
            read[str(refusal.code)] += 1
        else:
            assert form in FORMS[:5] and picture.mode == "RGB", (seed, form)
            read["read"] += 1
        if seed == count // 10:
            warm = resident(pool)
    assert pool.lost == 0 and resident(pool) - warm < GROWTH
    print(dict(read), f"{warm >> 20} MB then, {resident(pool) >> 20} MB now")  # `pytest -s`
    pool.close()
    assert min(read["read"], read["invalid_image"], read["image_size"]) > 0.04 * count, read


def test_no_picture_is_a_server_error() -> None:
    async def go(count: int) -> Counter[int]:
        app, engine = fake_api(EndpointArgs())
        transport, statuses = httpx.ASGITransport(app), Counter[int]()
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            for seed in range(count):
                url = as_url(case(seed, FORMS)[1])
                content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
                response = await client.post(CHAT, json={"messages": [{"role": "user", "content": content}]})
                statuses[response.status_code] += 1
                assert response.status_code in (200, 400), (seed, response.text)
        await engine.drain()
        return statuses

    assert min(asyncio.run(go(cases(1000) // BY_HTTP)).values()) > 10
