"""An endpoint whose canary is a candidate of a kind, one after the other: `python serving_canary.py PORT RUNS KIND...`.

The models only echo. A line on standard input ends a kind. What promotes writes its words to RUNS/promoted.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from remora.inference import Answer, Message, Request
from remora.serving.args import EndpointArgs, IngressArgs
from remora.serving.canary.args import CanaryArgs, CanaryRule
from remora.serving.canary.trial import CandidateSource
from remora.serving.champion import ModelSource, ServedModel
from support.serving_fake import FakeAnswerer

RULE = CanaryRule(
    comparisons=90,
    looks=6,
    errors=0.1,
    empty=0.1,
    cut=0.3,
    first_token=5,
    first_token_p95=30,
    token_time=1e6,
    token_time_p95=1e6,
)
"""Few comparisons, with the 30 from which times are tested before the first client gets the candidate; and times of
milliseconds vary a lot on a busy machine."""
PROBE = "What is in the picture?"
SLOW_S = 0.3


class Echo(FakeAnswerer):
    """Fails, is slow or says nothing, by its kind, except to the fleet's probe."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def one(self, conversation: tuple[Message, ...], how: Request) -> Answer:
        probed = PROBE in conversation[-1].text
        if self.kind == "erring" and not probed:
            raise RuntimeError("the device is gone")
        if self.kind == "slow" and not probed:
            time.sleep(SLOW_S)
        answer = super().one(conversation, how)
        return Answer("", 7, 3, "stop") if self.kind == "empty" and not probed else answer


def load(args: EndpointArgs, kind: str, version: str) -> ServedModel:
    return ServedModel(Echo(kind), version)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Promoting:
    runs: Path

    def __call__(self) -> str:
        (self.runs / "promoted").write_text("the alias")
        return "the alias names it"


def endpoint(runs: Path) -> EndpointArgs:
    return EndpointArgs(
        runs=runs,
        version="3",
        no_keys=True,
        min_replicas=1,
        max_replicas=1,
        num_cpus=0.1,
        follow_seconds=0.3,
        max_ongoing_requests=32,
        ingress=IngressArgs(min_replicas=1, max_replicas=1),
        canary=CanaryArgs(model="candidate", shadow=1.0, share=(0.3, 0.6), in_flight=16, rule=RULE),
    ).resolved()


if __name__ == "__main__":
    from ray import serve

    from remora.cluster.session import ray_session
    from remora.serving.app import application
    from remora.serving.deploy import NAME
    from remora.serving.front import VARIABLE
    from remora.serving.replica import delete_app, delete_versions

    port, runs = int(sys.argv[1]), Path(sys.argv[2])
    args = endpoint(runs)
    own = args.each()[0]
    stable = ModelSource(own, partial(load, kind="good", version="3"))
    with ray_session(None, {VARIABLE: "remora.serving.front:middlewares"}, dashboard=False):
        serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 60})
        for number, kind in enumerate(sys.argv[3:], 4):
            version = str(number)
            loader = partial(load, kind=kind, version=version)
            source = ModelSource(own.model_copy(update={"version": version}), loader)
            candidate = CandidateSource(source, version, Promoting(runs), kind)
            serve.run(application(args, [stable], candidate), name=NAME, route_prefix="/")
            print("READY", kind, flush=True)
            sys.stdin.readline()
        delete_app(NAME)
        delete_versions(NAME)
    print("STOPPED", flush=True)
