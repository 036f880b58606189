"""The Serve application: replicas that each hold the model, behind OpenAI's API.

serve deploy serve/local.yaml         # import_path: remora.serving.app:build
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from ray import serve
from ray.serve.config import BackpressureConfig

from remora.carrier import carried
from remora.serving import champion
from remora.serving.api import api
from remora.serving.args import EndpointArgs
from remora.serving.champion import ServedModel
from remora.serving.engines.builtin import BuiltinEngine

REQUEST_TIMEOUT_S = 120.0
"""The proxy's timeout for a request."""
GRACE_S = REQUEST_TIMEOUT_S + 10
"""A stopping replica finishes its requests first, so this must exceed the longest of them."""
RETRY_AFTER_S = 2
"""Retry-After of the 429 when the endpoint is full."""


@serve.deployment
@serve.ingress()
class Endpoint:
    """One replica: a champion and the engine that runs it."""

    def __init__(self, args: EndpointArgs, load: Callable[[EndpointArgs], ServedModel]) -> None:
        import torch

        torch.set_num_threads(max(1, int(args.num_cpus)))
        self.args = args
        assert args.runs is not None, "resolved at deployment"
        with carried(args.runs / "logs"):
            self.champion = load(args)
        self.engine = BuiltinEngine.of(self.champion.answerer, args.cache_bytes)

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Built in the replica. `serve.ingress(app)` would pickle a FastAPI object by value while this class is being
        # defined: string annotations and later definitions of the module are lost (Ray 2.60).
        return api(self.args, self.champion, self.engine)


def application(args: EndpointArgs, load: Callable[[EndpointArgs], ServedModel] = champion.load) -> serve.Application:
    """The application for `args`; a replica gets its model by `load`.

    Raises:
        SpecError: neither keys nor `no_keys`.
    """
    args.check_keys()
    args = args.resolved()
    deployment = Endpoint.options(  # type: ignore[attr-defined]
        autoscaling_config={
            "min_replicas": args.min_replicas,
            "max_replicas": args.max_replicas,
            "target_ongoing_requests": max(1, args.max_ongoing_requests / 2),
        },
        max_ongoing_requests=args.max_ongoing_requests,
        max_queued_requests=args.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        # With Serve's 10 s a dead replica would be noticed that much later.
        health_check_period_s=2,
        graceful_shutdown_timeout_s=GRACE_S,
        # Serve's 3 tries per replica cost tens of seconds, and a model that fails to load fails again.
        max_constructor_retry_count=args.min_replicas + 1,
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
    )
    return deployment.bind(args, load)


def build(args: dict[str, object]) -> serve.Application:
    """The application builder that a Serve config names as `import_path`; `args` are EndpointArgs.

    Raises:
        SpecError: an unknown argument, or a value that breaks a rule.
        TrackingError: there is no such model, alias or version; the running deployment stays.
    """
    return application(champion.pinned(EndpointArgs.read(args)))
