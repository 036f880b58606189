"""An endpoint on loopback whose answers are streamed piece by piece, each when a test says so."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from remora.serving.args import EndpointArgs
from support.serving_fake import CHAT, fake_api
from support.waiting import until

PIECES = ["a red ", "circle on ", "the left, ", "<b>a blue</b> square ", "on the right"]


class Scripted:
    """The endpoint, whose answers are streamed piece by piece, each when the test says so."""

    def __init__(self, args: EndpointArgs) -> None:
        (self.app, _), self.keyed = fake_api(args), args.keys is not None
        self.asked: list[dict[str, Any]] = []
        self.let = threading.Semaphore(0)
        self.gone = threading.Event()
        self.scripted = True
        self.cut = False
        self.pieces = PIECES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != CHAT or not self.scripted:
            return await self.app(scope, receive, send)
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.asked.append(json.loads(body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        leaving = asyncio.ensure_future(receive())
        head = {"id": "1", "object": "chat.completion.chunk", "system_fingerprint": "remora@3", "usage": None}

        async def event(**said: Any) -> None:
            text = f"data: {json.dumps(head | said)}\n\n".encode()
            for part in (text[:7], text[7:]):  # the network cuts where it likes
                await send({"type": "http.response.body", "body": part, "more_body": True})

        await event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        for piece in self.pieces:
            while not self.let.acquire(blocking=False):
                if leaving.done():
                    self.gone.set()
                    return
                await asyncio.sleep(0.01)
            await event(choices=[{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
        if not self.cut:
            await event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
            await event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
        leaving.cancel()


@contextmanager
def served(args: EndpointArgs | None = None) -> Iterator[tuple[str, Scripted]]:
    app = Scripted(args or EndpointArgs())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until("the server", lambda: server.started)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", app
        finally:
            server.should_exit = server.force_exit = True
            thread.join(30)
