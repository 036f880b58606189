"""What the endpoint measures: under vLLM's names, as Prometheus reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from remora.inference import Request, Stats
from remora.serving.args import EndpointArgs
from remora.serving.engines.protocol import Delta, EngineStats
from remora.serving.engines.remote import RemoteEngine
from remora.serving.metrics import METRICS, MeteredEngine, PrometheusRecorder
from support.serving_fake import CHAT, fake_api

HI = {"messages": [{"role": "user", "content": "hi"}]}


class ScriptedEngine:
    """Deltas at times that are given; the clock is moved by it."""

    def __init__(self, deltas: list[tuple[float, Delta | Exception]]) -> None:
        self.deltas, self.now = deltas, 100.0

    async def submit(self, request: Request) -> AsyncGenerator[Delta, None]:
        for wait, delta in self.deltas:
            self.now += wait
            if isinstance(delta, Exception):
                raise delta
            yield delta

    @property
    def stats(self) -> EngineStats:
        return EngineStats(Stats(3, 2, 0, 0, 0, 0, 0, 250), 0, 1.5, 0, 0)

    async def ready(self) -> bool:
        return True

    async def drain(self) -> None:
        pass


def figures(text: bytes) -> dict[str, float]:
    """Sample -> value; labels but the model's name are part of a sample's name."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "model_name"}
            found[sample.name + "".join(f"{{{k}={v}}}" for k, v in labels.items())] = sample.value
    return found


def measured(deltas: list[tuple[float, Delta | Exception]], most: int = 99) -> dict[str, float]:
    engine, recorder = ScriptedEngine(deltas), PrometheusRecorder("remora")
    metered = MeteredEngine(engine, recorder, 1000, lambda: engine.now)

    async def go() -> None:
        async with aclosing(metered.submit(None)) as stream:  # type: ignore[arg-type]
            for _ in range(most):
                try:
                    await anext(stream)
                except (StopAsyncIteration, KeyError):
                    return

    asyncio.run(go())
    metered.sample()
    return figures(recorder.text())


FIRST = Delta("a", (1,), prompt_tokens=20, image_tokens=9, cached_tokens=12)
ANSWER: list[tuple[float, Delta | Exception]] = [
    (0.5, FIRST),
    (0.1, Delta("b", (2,), prompt_tokens=20)),
    (0.2, Delta("cd", (3, 4), finish_reason="stop", prompt_tokens=20)),
]


def test_an_answers_times_and_tokens() -> None:
    found = measured(ANSWER)
    counted = ("_total", "_total{finished_reason=stop}")
    assert {name.removeprefix("vllm:"): value for name, value in found.items() if name.endswith(counted)} == {
        "prompt_tokens_total": 20,
        "prompt_image_tokens_total": 9,
        "prefix_cache_queries_total": 20,
        "prefix_cache_hits_total": 12,
        "generation_tokens_total": 4,
        "request_success_total{finished_reason=stop}": 1,
        "process_cpu_seconds_total": found["process_cpu_seconds_total"],
    }
    for name, (count, total) in {
        "time_to_first_token_seconds": (1, 0.5),
        "inter_token_latency_seconds": (3, 0.3),
        "request_time_per_output_token_seconds": (1, 0.1),
        "e2e_request_latency_seconds": (1, 0.8),
        "request_decode_time_seconds": (1, 0.3),
        "request_prompt_tokens": (1, 20),
        "request_generation_tokens": (1, 4),
    }.items():
        assert found[f"vllm:{name}_count"] == count
        assert found[f"vllm:{name}_sum"] == pytest.approx(total), name
    assert found["vllm:time_to_first_token_seconds_bucket{le=0.5}"] == 1
    gauges = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "engine_stalled_seconds")
    assert [found[f"vllm:{name}"] for name in gauges] == [2, 3, 0.25, 1.5]


@pytest.mark.parametrize(
    ("deltas", "most", "reason"),
    [
        (ANSWER, 2, "abort"),
        (ANSWER, 0, None),
        ([(0.1, KeyError("weights"))], 9, "error"),
        ([(0.1, FIRST), (0.1, KeyError("weights"))], 9, "error"),
        ([(0.1, Delta("", (5,), finish_reason="length", prompt_tokens=20))], 9, "length"),
    ],
)
def test_every_end_is_counted_once(deltas: Any, most: int, reason: str | None) -> None:
    found = measured(deltas, most)
    ends = {name: value for name, value in found.items() if name.startswith("vllm:request_success_total")}
    assert ends == ({} if reason is None else {f"vllm:request_success_total{{finished_reason={reason}}}": 1})
    assert found["vllm:e2e_request_latency_seconds_count"] == (reason == "length")


def test_an_engine_elsewhere_has_no_cache_here() -> None:
    """Its replicas export its use; 0 here would say that it is empty."""
    engine, recorder = ScriptedEngine([]), PrometheusRecorder("remora")
    metered = MeteredEngine(engine, recorder, 1000)
    metered.engine = RemoteEngine(None)  # type: ignore[arg-type]
    metered.sample()
    found = figures(recorder.text())
    assert "vllm:kv_cache_usage_perc" not in found and found["vllm:num_requests_running"] == 0


def test_over_http() -> None:
    async def go() -> tuple[httpx.Response, httpx.Response]:
        app, engine = fake_api(EndpointArgs())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            before = await client.get("/metrics")
            for more in ({}, {"n": 2}, {"stream": True}):
                assert (await client.post(CHAT, json=HI | more)).status_code == 200
            found = before, await client.get("/metrics")
        await engine.drain()
        return found

    before, after = asyncio.run(go())
    assert after.headers["content-type"].startswith("text/plain; version=")
    assert b'vllm:prompt_tokens_total{model_name="remora"}' in after.content
    found = figures(after.content)
    assert found["vllm:prompt_tokens_total"] == 4 * 7 and found["vllm:generation_tokens_total"] == 4 * 3
    assert found["vllm:request_success_total{finished_reason=stop}"] == 4
    assert found["process_resident_memory_bytes"] > 1e6
    shown = {name.partition("{")[0] for name in figures(before.content)}
    for name, metric in METRICS.items():
        if not metric.labels:
            ends = {"gauge": "", "counter": "_total", "histogram": "_sum"}
            assert f"vllm:{name}{ends[metric.kind]}" in shown, "there before the first request"
