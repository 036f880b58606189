"""An endpoint whose model only echoes its input: `python serving_fake.py PORT [ALIAS [KEYS]]`, until SIGTERM."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from PIL import Image

from remora.errors import DataError, TooLong
from remora.inference import Answer, Message, Prompt, Request
from remora.serving.api import api
from remora.serving.args import EndpointArgs
from remora.serving.champion import ServedModel
from remora.serving.line import Line
from support.waiting import until

CHAT = "/v1/chat/completions"
HELD = "held "
"""`held <folder>` is answered once there is a file `go` in the folder; <pid>-<a number> says there who holds it."""


@dataclass(frozen=True, eq=False)
class FakePrompt(Prompt):
    conversation: tuple[Message, ...] = ()


def hold(folder: Path) -> None:
    (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    until("the word to go on", (folder / "go").exists)


class FakeAnswerer:
    """Answers with the size and first pixel of each picture, the question, and how many were asked together."""

    name = "share-Fake"
    max_length = 512
    vocabulary = 100

    def __init__(self) -> None:
        self.calls: list[list[Request]] = []

    def prompt(self, conversation: list[Message]) -> Prompt:
        if "too long" in conversation[-1].text:
            raise TooLong(600, 1, self.max_length)
        return FakePrompt((0,) * 7, (), tuple(conversation))

    def room(self, prompt: Prompt) -> int:
        return self.max_length - len(prompt.ids)

    def fitted(self, picture: Image.Image) -> Image.Image:
        return picture

    def answer(self, requests: Sequence[Request], done: Callable[[int, Answer], None]) -> list[Answer]:
        self.calls.append(list(requests))
        answers = []
        for i, request in enumerate(requests):
            assert isinstance(request.conversation, FakePrompt)
            answers.append(self._one(request.conversation.conversation, request))
            done(i, answers[i])
        return answers

    def _one(self, conversation: tuple[Message, ...], how: Request) -> Answer:
        question = conversation[-1].text
        if "explode" in question:
            raise KeyError("weights")
        if question.startswith(HELD):
            hold(Path(question.removeprefix(HELD)))
        if "settings" in question:
            return Answer(str(replace(how, conversation=())), 7, 3, "stop")
        seen = [f"{i.width}x{i.height} {i.mode} {i.getpixel((0, 0))}" for turn in conversation for i in turn.images]
        roles = ",".join(turn.role for turn in conversation)
        return Answer(f"{roles} | {seen} | {question} | {os.getpid()}", 7, 3, "stop")


def load(args: EndpointArgs) -> ServedModel:
    if args.alias == "broken":
        raise DataError("the bundle is torn; next: remora train")
    return ServedModel(FakeAnswerer(), "3", "run-1")  # type: ignore[arg-type]


def fake_api(args: EndpointArgs) -> FastAPI:
    """The application over the model that echoes."""
    champion = load(args)
    return api(args, champion, Line(champion.answerer, 8).answer)


def call(method: str, path: str, args: EndpointArgs | None = None, **request: Any) -> httpx.Response:
    """One request to the application itself; no Ray, no socket."""

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(fake_api(args or EndpointArgs()), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
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

    alias, *keys = sys.argv[2:] or ["champion"]
    serve_forever(
        EndpointArgs(alias=alias, max_replicas=2, keys=Path(keys[0]) if keys else None, no_keys=not keys),
        port=int(sys.argv[1]),
        ready=lambda url: print("READY", url, flush=True),
        load=load,
    )
    print("STOPPED", flush=True)
