"""An endpoint whose model only says what it was given. `python serving_fake.py PORT` serves it until SIGTERM."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import sys
import time
from typing import Any

import httpx
from PIL import Image

from remora.errors import DataError
from remora.inference import Answer, Turn
from remora.serving.answering import Job, answer_all
from remora.serving.api import api
from remora.serving.args import EndpointArgs
from remora.serving.champion import Champion
from remora.serving.protocol import Refusal

CHAT = "/v1/chat/completions"


class FakeAnswerer:
    """Answers with the size and first pixel of each picture, the question, and how many were asked together."""

    name = "share-Fake"
    max_length = 512

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, float, int]] = []
        """(conversations, max_new_tokens, temperature, seed) of each call."""

    def room(self, conversation: list[Turn]) -> int:
        if "too long" in conversation[-1].text:
            raise DataError("the prompt is too long; shorten it")
        return self.max_length - 7

    def answer(
        self, conversations: list[list[Turn]], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Answer]:
        self.calls.append((len(conversations), max_new_tokens, temperature, seed))
        return [self._one(c) for c in conversations]

    def _one(self, conversation: list[Turn]) -> Answer:
        question = conversation[-1].text
        if "explode" in question:
            raise KeyError("weights")
        if "sleep" in question:
            time.sleep(1.5)
        seen = [f"{i.width}x{i.height} {i.mode} {i.getpixel((0, 0))}" for turn in conversation for i in turn.images]
        roles = ",".join(turn.role for turn in conversation)
        return Answer(f"{roles} | {seen} | {question} | {os.getpid()}", 7, 3, "stop")


def load(args: EndpointArgs) -> Champion:
    if args.alias == "broken":
        raise DataError("the bundle is torn; next: remora train")
    return Champion(FakeAnswerer(), "3", "run-1")  # type: ignore[arg-type]


def call(method: str, path: str, args: EndpointArgs | None = None, **request: Any) -> httpx.Response:
    """One request to the application itself; no Ray, no socket."""
    args, model = args or EndpointArgs(), FakeAnswerer()

    async def answer(one: Job) -> Answer | Refusal:
        return answer_all(model, [one])[0]  # type: ignore[arg-type]

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(api(args, load(args), answer), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://endpoint") as client:
            return await client.request(method, path, **request)

    return asyncio.run(go())


def data_url(picture: Image.Image, kind: str = "PNG", **options: object) -> str:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return as_url(out.getvalue(), kind.lower())


def as_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


if __name__ == "__main__":
    from remora.serving.deploy import serve_forever

    serve_forever(
        EndpointArgs(alias=sys.argv[2] if len(sys.argv) > 2 else "champion", max_replicas=2),
        port=int(sys.argv[1]),
        ready=lambda url: print("READY", url, flush=True),
        load=load,
    )
    print("STOPPED", flush=True)
