"""The Serve application: replicas that each hold the champion, behind OpenAI's API.

serve deploy serve/local.yaml         # import_path: remora.serving.app:build
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI
from ray import serve

from remora.serving import champion
from remora.serving.answering import Job, answer_all
from remora.serving.api import api
from remora.serving.args import EndpointArgs
from remora.serving.champion import Champion

REQUEST_TIMEOUT_S = 120.0
"""The proxy answers 408 after this long."""
GRACE_S = REQUEST_TIMEOUT_S + 10
"""A replica that is told to stop finishes its requests first, so this must exceed the longest of them."""
BATCH = 8
"""Requests that go to the model together."""


@serve.deployment
@serve.ingress()
class Endpoint:
    """One replica: a champion and the one thread that runs it."""

    def __init__(self, args: EndpointArgs, load: Callable[[EndpointArgs], Champion]) -> None:
        import torch

        torch.set_num_threads(max(1, int(args.num_cpus)))
        self.args = args
        self.champion = load(args)
        # One thread: the model answers one batch at a time, and the event loop stays free to read requests.
        self.model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Built in the replica. `serve.ingress(app)` would pickle a FastAPI object by value while this class is being
        # defined: string annotations and whatever the module defines further down are lost on the way (Ray 2.60).
        return api(self.args, self.champion, self.answer)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.01)
    async def answer(self, jobs: list[Job]) -> list[Any]:
        """Takes one Job and gives one Answer or Refusal; Serve gathers the calls."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.model_thread, answer_all, self.champion.answerer, jobs)


def application(args: EndpointArgs, load: Callable[[EndpointArgs], Champion] = champion.load) -> serve.Application:
    """The application for `args`; `load` is how a replica gets its model."""
    args = args.resolved()
    deployment = Endpoint.options(  # type: ignore[attr-defined]
        autoscaling_config={
            "min_replicas": args.min_replicas,
            "max_replicas": args.max_replicas,
            "target_ongoing_requests": max(1, args.max_ongoing_requests / 2),
        },
        max_ongoing_requests=args.max_ongoing_requests,
        max_queued_requests=args.max_queued_requests,
        graceful_shutdown_timeout_s=GRACE_S,
        # Serve's 3 tries a replica cost tens of seconds; a champion that cannot be loaded cannot be loaded.
        max_constructor_retry_count=args.min_replicas + 1,
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
    )
    return deployment.bind(args, load)


def build(args: dict[str, Any]) -> serve.Application:
    """What a Serve config names as its `import_path`; `args` are EndpointArgs.

    Raises:
        SpecError: an unknown argument, or a value that breaks a rule.
    """
    return application(EndpointArgs.read(args))
