"""What the endpoint measures of itself, under vLLM's names, so that boards made for vLLM show it.

`METRICS` says what there is. A `Recorder` keeps it: here for GET /metrics, as Prometheus reads it. No Ray here.
"""

from __future__ import annotations

import copy
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from remora.errors import DataError
from remora.serving.engines.protocol import Delta, EngineStats, OtherVersion, ServingEngine

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as MetricFamily

    from remora.inference import Request
    from remora.serving.versions import VersionTable

SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


@dataclass(frozen=True)
class Metric:
    """A metric's kind, what it counts, its labels beside the model's name, the edges of its buckets."""

    kind: Literal["gauge", "counter", "histogram"]
    about: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS = {
    "num_requests_running": Metric("gauge", "Answers that are being written."),
    "num_requests_waiting": Metric("gauge", "Answers that wait to be begun."),
    "kv_cache_usage_perc": Metric("gauge", "Share of the key-value cache that is taken; 1 is all of it."),
    "engine_stalled_seconds": Metric("gauge", "Time since the engine last began a step or had nothing to do."),
    "prefix_cache_queries": Metric("counter", "Tokens of prompts."),
    "prefix_cache_hits": Metric("counter", "Of these, tokens that were not read again."),
    "prompt_tokens": Metric("counter", "Tokens of prompts."),
    "prompt_image_tokens": Metric("counter", "Of these, pictures' tokens."),
    "generation_tokens": Metric("counter", "Tokens of answers."),
    "request_success": Metric("counter", "Answers by how they ended; abort: the client went.", ("finished_reason",)),
    "time_to_first_token_seconds": Metric("histogram", "From a request to its first token.", (), SECONDS),
    "inter_token_latency_seconds": Metric("histogram", "Between two tokens.", (), GAPS),
    "request_time_per_output_token_seconds": Metric("histogram", "Mean of an answer's gaps.", (), GAPS),
    "e2e_request_latency_seconds": Metric("histogram", "From a request to its answer's end.", (), SECONDS),
    "request_decode_time_seconds": Metric("histogram", "From an answer's first token to its last.", (), SECONDS),
    "request_prompt_tokens": Metric("histogram", "Tokens of a prompt.", (), TOKENS),
    "request_generation_tokens": Metric("histogram", "Tokens of an answer.", (), TOKENS),
}
"""By vLLM's name without its prefix and without the `_total` of counters; engine_stalled_seconds and
prompt_image_tokens are ours."""


class Recorder(Protocol):
    """Keeps figures by the names of METRICS."""

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """To a counter."""

    def set(self, name: str, value: float) -> None:
        """A gauge."""

    def observe(self, name: str, value: float) -> None:
        """In a histogram."""


class PrometheusRecorder:
    """A Recorder whose figures Prometheus reads: `vllm:<name>{model_name="…"}`."""

    def __init__(self, model_name: str, prefix: str = "vllm:") -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        of = {name: (prefix + name, m.about, ("model_name", *m.labels)) for name, m in METRICS.items()}
        registry = self.registry

        def named(kind: str) -> list[str]:
            return [name for name, metric in METRICS.items() if metric.kind == kind]

        self._counters = {name: Counter(*of[name], registry=registry) for name in named("counter")}
        self._gauges = {name: Gauge(*of[name], registry=registry) for name in named("gauge")}
        self._histograms = {
            name: Histogram(*of[name], buckets=METRICS[name].buckets, registry=registry) for name in named("histogram")
        }
        self._show(model_name)

    def _show(self, model_name: str) -> None:
        for name, metric in (self._counters | self._histograms).items():
            if not METRICS[name].labels:
                metric.labels(model_name=model_name)  # shown before the first request
        self._model_name = model_name

    def beside(self, model_name: str) -> PrometheusRecorder:
        """One for another model, whose figures are in the same text."""
        other = copy.copy(self)
        other._show(model_name)
        return other

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        self._counters[name].labels(model_name=self._model_name, **labels).inc(amount)

    def set(self, name: str, value: float) -> None:
        self._gauges[name].labels(model_name=self._model_name).set(value)

    def observe(self, name: str, value: float) -> None:
        self._histograms[name].labels(model_name=self._model_name).observe(value)

    def text(self) -> bytes:
        """All figures, in Prometheus's text format."""
        return generate_latest(self.registry)


class VersionsCollector(Collector):
    """Which versions are served, and which one that an alias names is not, as `table` has them when they are read."""

    def __init__(self, table: Callable[[], VersionTable]) -> None:
        self._table = table

    def collect(self) -> Iterator[MetricFamily]:
        served = GaugeMetricFamily(
            "remora:served_version", "1: it is served.", labels=("model_name", "version", "role")
        )
        refused = GaugeMetricFamily(
            "remora:refused_version",
            "1: the alias names it, and it could not be taken.",
            labels=("model_name", "version"),
        )
        for model in self._table().models:
            for one in model.running:
                served.add_metric((model.model, one.version, model.role(one)), 1)
            if model.refused is not None:
                refused.add_metric((model.model, model.refused.version), 1)
        yield from (served, refused)


class MeteredEngine:
    """An engine whose answers are measured. The times are those of the endpoint's side: queue, prompt and decoding."""

    def __init__(
        self,
        engine: ServingEngine,
        recorder: Recorder,
        cache_bytes: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engine, self.recorder, self.cache_bytes, self.clock = engine, recorder, cache_bytes, clock

    async def submit(self, request: Request) -> AsyncGenerator[Delta, None]:
        began, times, tokens, reason = self.clock(), list[float](), 0, "abort"
        try:
            async with aclosing(self.engine.submit(request)) as deltas:
                async for delta in deltas:
                    self._heard(delta, began, times[-1] if times else None)
                    times = [*times[:1], self.clock()]
                    tokens += len(delta.tokens)
                    reason = delta.finish_reason or reason
                    yield delta
        except (DataError, OtherVersion):  # a refusal, before it began
            reason = ""
            raise
        except Exception:
            reason = "error"
            raise
        finally:
            if reason:
                self.recorder.add("request_success", finished_reason=reason)
            if reason in ("stop", "length"):
                self._ended(began, times, tokens)

    def _heard(self, delta: Delta, began: float, last: float | None) -> None:
        now, say = self.clock(), self.recorder
        say.add("generation_tokens", len(delta.tokens))
        if last is not None:
            for _ in delta.tokens:
                say.observe("inter_token_latency_seconds", (now - last) / len(delta.tokens))
            return
        say.observe("time_to_first_token_seconds", now - began)
        say.observe("request_prompt_tokens", delta.prompt_tokens)
        for name, amount in (
            ("prompt_tokens", delta.prompt_tokens),
            ("prompt_image_tokens", delta.image_tokens),
            ("prefix_cache_queries", delta.prompt_tokens),
            ("prefix_cache_hits", delta.cached_tokens),
        ):
            say.add(name, amount)

    def _ended(self, began: float, times: list[float], tokens: int) -> None:
        say, took = self.recorder, times[-1] - times[0]
        say.observe("e2e_request_latency_seconds", times[-1] - began)
        say.observe("request_decode_time_seconds", took)
        say.observe("request_generation_tokens", tokens)
        if tokens > 1:
            say.observe("request_time_per_output_token_seconds", took / (tokens - 1))

    @property
    def stats(self) -> EngineStats:
        return self.engine.stats

    def sample(self) -> None:
        """Record the engine's state now."""
        stats = self.stats
        self.recorder.set("num_requests_running", stats.load.running)
        self.recorder.set("num_requests_waiting", stats.load.waiting)
        if stats.has_cache:
            self.recorder.set("kv_cache_usage_perc", stats.load.cache_bytes / self.cache_bytes)
        self.recorder.set("engine_stalled_seconds", stats.stalled_s)

    async def ready(self) -> bool:
        return await self.engine.ready()

    async def drain(self) -> None:
        await self.engine.drain()
