"""An endpoint whose model only echoes its input: `python serving_fake.py PORT [ALIAS [KEYS]]`, until SIGTERM."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import httpx
from fastapi import FastAPI
from PIL import Image

from remora.errors import DataError, TooLong
from remora.inference import Answer, Event, FittedPicture, Message, Prompt, Request, Stats
from remora.inference.text import Detokenizer
from remora.serving.api import api
from remora.serving.args import EndpointArgs
from remora.serving.champion import ModelFacts, ServedModel
from remora.serving.engines.builtin import BuiltinEngine
from remora.serving.versions import table_of
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
    """Answers with the size and first pixel of each picture, the question, and the process."""

    name = "share-Fake"
    max_length = 512
    vocabulary = 100

    stop_id = -1

    def __init__(self) -> None:
        self.calls: list[list[Request]] = []
        """The requests of each step."""
        self.pieces = Pieces()

    def prompt(self, conversation: list[Message]) -> Prompt:
        if "too long" in conversation[-1].text:
            raise TooLong(600, 1, self.max_length)
        return FakePrompt((0,) * 7, (), tuple(conversation))

    def room(self, prompt: Prompt) -> int:
        return self.max_length - len(prompt.ids)

    fitted = staticmethod(Image.Image.copy)  # known by name in another process, too

    @property
    def detokenizer(self) -> Detokenizer:
        return Detokenizer(self.pieces)  # type: ignore[arg-type]

    def engine(self, rows: int, **_: int) -> FakeAnswerEngine:
        return FakeAnswerEngine(self, rows)

    def one(self, conversation: tuple[Message, ...], how: Request) -> Answer:
        question = conversation[-1].text
        if "explode" in question:
            raise KeyError("weights")
        if question.startswith(HELD):
            hold(Path(question.removeprefix(HELD)))
        if "settings" in question:
            return Answer(str(replace(how, conversation=())), 7, 3, "stop")
        shown = [one.image for turn in conversation for one in turn.images if isinstance(one, FittedPicture)]
        seen = [f"{i.width}x{i.height} {i.mode} {i.getpixel((0, 0))}" for i in shown]
        roles = ",".join(turn.role for turn in conversation)
        return Answer(f"{roles} | {seen} | {question} | {os.getpid()}", 7, 3, "stop")


class Pieces:
    """The tokenizer: a token is a piece of an answer."""

    clean_up_tokenization_spaces = False
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __init__(self) -> None:
        self._of: list[str] = []

    def of(self, text: str) -> list[int]:
        """Three tokens."""
        third = -(-len(text) // 3)
        self._of += [text[i * third : (i + 1) * third] for i in range(3)]
        return [len(self._of) - 3 + i for i in range(3)]

    def convert_ids_to_tokens(self, token: int) -> str:
        return self._of[token]

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(self._of[token] for token in tokens)


class FakeAnswerEngine:
    """Thinks of a request's whole answer in its first step, and says a third of it in each."""

    def __init__(self, answerer: FakeAnswerer, rows: int) -> None:
        self.answerer, self.rows = answerer, rows
        self.waiting: dict[int, Request] = {}
        self.running: dict[int, tuple[list[int], Answer]] = {}
        self.added = 0

    def add(self, request: Request) -> int:
        self.waiting[self.added] = request
        self.added += 1
        return self.added - 1

    def cancel(self, number: int) -> None:
        self.waiting.pop(number, None)
        self.running.pop(number, None)

    def waits(self, number: int) -> bool:
        return number in self.waiting

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def stats(self) -> Stats:
        return Stats(len(self.waiting), len(self.running), 0, 0, 0, 0, 0, 0)

    def step(self) -> list[Event]:
        new = dict(list(self.waiting.items())[: self.rows - len(self.running)])
        self.waiting = {number: one for number, one in self.waiting.items() if number not in new}
        if new:
            self.answerer.calls.append(list(new.values()))
        for number, request in new.items():
            assert isinstance(request.conversation, FakePrompt)
            answer = self.answerer.one(request.conversation.conversation, request)
            self.running[number] = self.answerer.pieces.of(answer.text)[len(request.said) :], answer
        events = []
        for number, (tokens, answer) in list(self.running.items()):
            events.append(Event(number, tokens.pop(0), None if tokens else answer))
            if not tokens:
                del self.running[number]
        return events


def facts_of(answerer: FakeAnswerer) -> ModelFacts:
    return ServedModel(answerer, "3", "run-1").facts  # type: ignore[arg-type]


def load(args: EndpointArgs) -> ServedModel:
    if args.alias == "broken":
        raise DataError("the bundle is torn; next: remora train")
    return ServedModel(FakeAnswerer(), "3", "run-1")  # type: ignore[arg-type]


def fake_api(args: EndpointArgs) -> tuple[FastAPI, BuiltinEngine]:
    """The application over the model that echoes, and its engine."""
    champion = load(args)
    engine = BuiltinEngine.of(champion.answerer, args.cache_bytes)
    table = table_of(args.model, args.alias, champion.facts)
    return api(args, lambda: table, {args.model: engine}), engine


def call(method: str, path: str, args: EndpointArgs | None = None, **request: Any) -> httpx.Response:
    """One request to the application itself; no Ray, no socket."""

    async def go() -> httpx.Response:
        app, engine = fake_api(args or EndpointArgs())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            response = await client.request(method, path, **request)
        await engine.drain()
        return response

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
