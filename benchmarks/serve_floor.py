"""What of the endpoint's added time is Ray Serve's own: empty deployments beside the endpoint with a model that answers
at once.

    OMP_NUM_THREADS=1 python benchmarks/serve_floor.py [--count 100] [--sides floor fast remora] [--step-ms 4]

`floor` are deployments of a few lines on a Serve as it comes, `fast` the same with our settings of Serve
(serving/deploy.py); `remora` is the whole endpoint over a fake model, whose steps take `--step-ms` of sleep and give
one token each. One request at a time over one connection.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from ray import serve
from ray.serve.handle import DeploymentHandle
from serve_overhead import cpu_by_process
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from remora.cluster.session import ray_session
from remora.inference import Answer, Event, Request
from remora.serving.args import EndpointArgs, IngressArgs
from remora.serving.champion import ServedModel
from remora.serving.deploy import FAST, serve_forever

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from support.machine import cpu_name
from support.ports import free_port
from support.serving_fake import FakeAnswerEngine, FakeAnswerer

TOKENS = 30
HEAD = ("| request | p50, ms | p10 | of it sleep | CPU ms a request |", "|---|---:|---:|---:|---|")


class Engine:
    """The second deployment: an item, or some with pauses between them."""

    async def one(self, body: bytes) -> str:
        return "a"

    async def items(self, body: bytes, count: int, pause_s: float) -> AsyncGenerator[str, None]:
        for _ in range(count):
            if pause_s:
                await asyncio.sleep(pause_s)
            yield "a"


@serve.ingress()
class Floor:
    """The ingress, with a path for each thing that is measured."""

    def __init__(self, engine: DeploymentHandle[object], pause_s: float) -> None:
        self.engine, self.pause_s = engine, pause_s

    async def __serve_build_asgi_app__(self) -> FastAPI:
        app = FastAPI(openapi_url=None)
        app.add_route("/get", self.get, ["GET"])
        for path in ("constant", "call", "item", "whole", "events"):
            app.add_route(f"/{path}", getattr(self, path), ["POST"])
        return app

    async def get(self, request: HttpRequest) -> Response:
        return JSONResponse({"text": "a"})

    async def constant(self, request: HttpRequest) -> Response:
        await request.body()
        return JSONResponse({"text": "a"})

    async def call(self, request: HttpRequest) -> Response:
        return JSONResponse({"text": await self.engine.options(method_name="one").remote(await request.body())})

    def _items(self, body: bytes, count: int, pause_s: float) -> AsyncIterator[object]:
        return aiter(self.engine.options(method_name="items", stream=True).remote(body, count, pause_s))

    async def item(self, request: HttpRequest) -> Response:
        return JSONResponse({"text": [each async for each in self._items(await request.body(), 1, 0)]})

    async def whole(self, request: HttpRequest) -> Response:
        return JSONResponse({"text": [each async for each in self._items(await request.body(), TOKENS, self.pause_s)]})

    async def events(self, request: HttpRequest) -> Response:
        items = self._items(await request.body(), TOKENS, self.pause_s)
        events = (f"data: {json.dumps({'text': each})}\n\n" async for each in items)
        return StreamingResponse(events, media_type="text/event-stream")


class PacedEngine(FakeAnswerEngine):
    """Says a token a step, as many as it may."""

    step_s = 0.0

    def step(self) -> list[Event]:
        if self.step_s:
            time.sleep(self.step_s)
        return super().step()


class PacedPieces:
    """Any token is one letter."""

    clean_up_tokenization_spaces = False
    added_tokens_decoder: ClassVar[dict[int, object]] = {}

    def of(self, text: str) -> list[int]:
        return [0] * len(text)

    def convert_ids_to_tokens(self, token: int) -> str:
        return "a"

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "a" * len(tokens)


class PacedAnswerer(FakeAnswerer):
    def __init__(self, step_s: float) -> None:
        super().__init__()
        self.step_s, self.pieces = step_s, PacedPieces()  # type: ignore[assignment]

    def engine(self, rows: int, **_: int) -> PacedEngine:
        engine = PacedEngine(self, rows)
        engine.step_s = self.step_s
        return engine

    def one(self, conversation: object, how: Request) -> Answer:
        return Answer("a" * how.max_new_tokens, 7, how.max_new_tokens, "length")


def load(args: EndpointArgs, step_s: float) -> ServedModel:
    return ServedModel(PacedAnswerer(step_s), "3", "run-1")  # type: ignore[arg-type]


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, path: str, body: bytes | None) -> float:
        """Milliseconds until the response's end."""
        began = time.perf_counter()
        self._connection.request("GET" if body is None else "POST", path, body, {"content-type": "application/json"})
        response = self._connection.getresponse()
        text = response.read()
        took = 1000 * (time.perf_counter() - began)
        assert response.status == 200, text
        return took


def row(name: str, count: int, sleep_ms: float, ask: Callable[[], float]) -> None:
    for _ in range(20):
        ask()
    before = cpu_by_process(os.getpid())
    times = sorted(ask() for _ in range(count))
    after = cpu_by_process(os.getpid())
    used = {k.split(":")[-1].split(" ")[0]: 1000 * (v - before.get(k, 0)) / count for k, v in after.items()}
    shown = ", ".join(f"{k} {v:.1f}" for k, v in sorted(used.items()) if v >= 0.05)
    print(
        f"| {name} | {statistics.median(times):.1f} | {times[count // 10]:.1f} | {sleep_ms:g} | {shown} |", flush=True
    )


def floor(count: int, step_s: float, settings: dict[str, str] | None = None) -> None:
    port = free_port()
    with ray_session(None, {"RAY_worker_niceness": "0", **(settings or {})}, dashboard=False):
        print("Ray Serve" + (", with our settings" if settings else ""))
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        options = {"num_replicas": 1, "max_ongoing_requests": 1000, "ray_actor_options": {"num_cpus": 0.1}}
        engine = serve.deployment()(Engine).options(**options).bind()
        serve.run(serve.deployment()(Floor).options(**options).bind(engine, step_s), name="floor", route_prefix="/")
        client, body = Client(port), json.dumps(asked(1, False)).encode()
        sleep = 1000 * step_s * TOKENS
        row("GET of a constant", count, 0, lambda: client.ask("/get", None))
        row("POST, its body read, a constant", count, 0, lambda: client.ask("/constant", body))
        row("and a call of a second deployment", count, 0, lambda: client.ask("/call", body))
        row("and a stream of 1 item from it", count, 0, lambda: client.ask("/item", body))
        row(f"and a stream of {TOKENS} items from it", count, sleep, lambda: client.ask("/whole", body))
        row("the same, each sent as an event", count, sleep, lambda: client.ask("/events", body))
        serve.shutdown()


def asked(tokens: int, stream: bool) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "What is it?"}], "max_tokens": tokens, "stream": stream}


def remora(count: int, step_s: float) -> None:
    port = free_port()

    def ready(_: str) -> None:
        print("Remora")
        client, step = Client(port), 1000 * step_s
        row("GET /healthz", count, 0, lambda: client.ask("/healthz", None))
        row("GET /version", count, 0, lambda: client.ask("/version", None))
        for name, tokens, stream in (
            ("1 token", 1, False),
            ("1 token, streamed", 1, True),
            (f"{TOKENS} tokens", TOKENS, False),
            (f"{TOKENS} tokens, streamed", TOKENS, True),
        ):
            body = json.dumps(asked(tokens, stream)).encode()
            row(f"{name}", count, step * tokens, partial(client.ask, "/v1/chat/completions", body))
        raise KeyboardInterrupt

    args = EndpointArgs(no_keys=True, min_replicas=1, max_replicas=1, ingress=IngressArgs(min_replicas=1))
    serve_forever(args, port=port, ready=ready, load=partial(load, step_s=step_s))


SIDES = {"floor": floor, "fast": partial(floor, settings=FAST), "remora": remora}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--step-ms", type=float, default=4)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES])
    args = parser.parse_args()
    # For the replicas.
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[-1], *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    load1 = os.getloadavg()[0]
    print(f"{cpu_name()}, {os.cpu_count()} cores, load {load1:.1f}", *HEAD, sep="\n", flush=True)
    for side in args.sides:
        SIDES[side](args.count, args.step_ms / 1000)


if __name__ == "__main__":
    main()
