"""What /version and /metrics say of a canary."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from remora.serving.canary.course import Phase
from remora.serving.canary.traffic import CanaryTraffic
from remora.serving.versions import ModelVersions

PREFIX = "remora:canary_"


def canary_body(model: ModelVersions, canary: CanaryTraffic) -> dict[str, object]:
    """Of /version: the candidate, where its canary is, and the rule; what one ingress replica has counted is below its
    name. The stable version is told beside."""
    trial = None if model.trial is None else model.trial.running
    on_trial = trial and {
        "version": trial.version,
        "name": trial.facts.name,
        "system_fingerprint": model.fingerprint(trial.version),
    }
    state, counts = asdict(canary.state), asdict(canary.counts)
    plan = {"shadow": canary.plan.shadow, "shares": list(canary.plan.share), "rule": canary.plan.rule.words}
    return {"candidate": on_trial, "model": canary.plan.model, **state, **plan, "ingress_replica": counts}


class CanaryGauges:
    """A canary's figures for Prometheus: `remora:canary_share{model_name="remora"}`."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        labels = ("model_name",)
        self._model_name = model_name
        self._phase = Gauge(f"{PREFIX}phase", "1 for where the canary is.", (*labels, "phase"), registry=registry)
        self._gauges = {
            name: Gauge(PREFIX + name, about, labels, registry=registry)
            for name, about in (
                ("share", "Share of the clients that get the candidate's answers."),
                ("comparisons", "Requests that both versions have answered, in all ingress replicas."),
                ("looks", "Looks of the rule so far."),
            )
        }
        self._counters = {
            name: Counter(PREFIX + name, about, labels, registry=registry)
            for name, about in (
                ("compared", "Requests that both versions have answered."),
                ("dropped", "Requests to be compared that were not: no room in the shadow, or no client any more."),
                ("rescued", "Requests that the candidate failed and the stable version answered."),
            )
        }
        about = "Answers that clients got from each version, while one was on trial."
        self._answered = Counter(f"{PREFIX}answers", about, (*labels, "role"), registry=registry)
        self._counted: dict[str, int] = {}

    def sample(self, canary: CanaryTraffic) -> None:
        """Record how it stands."""
        labels, state = {"model_name": self._model_name}, canary.state
        for phase in get_args(Phase):
            self._phase.labels(**labels, phase=phase).set(phase == state.phase)
        for name, gauge in self._gauges.items():
            gauge.labels(**labels).set(getattr(state, name))
        for name, counter in self._counters.items():
            counter.labels(**labels).inc(self._new(name, getattr(canary.counts, name)))
        for role, count in canary.counts.answered.items():
            self._answered.labels(**labels, role=role).inc(self._new(role, count))

    def _new(self, name: str, count: int) -> int:
        before, self._counted[name] = self._counted.get(name, 0), count
        return count - before
