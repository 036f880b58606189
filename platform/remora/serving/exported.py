"""What engine replicas measure, exported by Ray beside its own metrics: `ray_vllm_…`, for Ray's Serve LLM board."""

from __future__ import annotations

from ray.serve.metrics import Counter, Gauge, Histogram

from remora.serving.metrics import METRICS


class ServeRecorder:
    """A Recorder (metrics.py) of a replica, whose figures Ray labels with deployment and replica, and exports."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for name, metric in METRICS.items():
            called, keys = f"vllm_{name}", ("model_name", *metric.labels)  # Ray adds `_total` to counters
            # Ray's annotation of tag keys allows one.
            if metric.kind == "counter":
                self._counters[name] = Counter(called, metric.about, keys)  # type: ignore[arg-type]
            elif metric.kind == "gauge":
                self._gauges[name] = Gauge(called, metric.about, keys)  # type: ignore[arg-type]
            else:
                self._histograms[name] = Histogram(called, metric.about, list(metric.buckets), keys)  # type: ignore[arg-type]

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        if amount:  # Ray refuses to add 0
            self._counters[name].inc(amount, {"model_name": self._model_name, **labels})

    def set(self, name: str, value: float) -> None:
        self._gauges[name].set(value, {"model_name": self._model_name})

    def observe(self, name: str, value: float) -> None:
        self._histograms[name].observe(value, {"model_name": self._model_name})
