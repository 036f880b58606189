"""A request as the front hands it to Serve's proxy, and the reply that comes back: a replica's, or the proxy's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Send

from remora.serving.args import EndpointArgs
from remora.serving.openai_api import Refusal
from remora.serving.resumed import ClientStream, OtherAnswer

MARK = "x-remora"
"""A header of every replica's response; responses without it are the proxy's own."""
BODY = "remora.body"
"""In a chat request's scope: the body, if it is short. Each message that a replica gets by `receive` is one more call
of the proxy for it."""
SHORT = 64 * 2**10
"""Bytes of a body that goes along; Ray puts calls above 100 KB into its object store."""
LATE_S = 1.0
"""Seconds after which such a body comes by `receive`, too, as if an application other than ours waited for it."""
FULL = "the endpoint is full"
LATER = 2
"""Retry-After, in seconds."""


@dataclass(frozen=True)
class Facts:
    """A replica's facts about itself, from its mark."""

    max_body_bytes: int = EndpointArgs().limits.max_body_bytes
    places: int = EndpointArgs().ingress.max_ongoing_requests
    """Requests that it works on at a time."""
    most: int = EndpointArgs().most_requests
    """Requests that a proxy has under way at a time."""

    @classmethod
    def of(cls, args: EndpointArgs) -> Facts:
        return cls(args.limits.max_body_bytes, args.ingress.max_ongoing_requests, args.most_requests)

    def written(self) -> str:
        return f"{self.max_body_bytes} {self.places} {self.most}"

    @classmethod
    def read(cls, text: str) -> Facts:
        numbers = [int(number) for number in text.split() if number.isdecimal()]
        return cls(*numbers) if len(numbers) == 3 else cls()


class Upload:
    """A received body, replayed as a client's messages; disconnects when `gone` is set or the real client leaves."""

    def __init__(self, body: bytes, receive: Receive | None = None, late_s: float = 0.0) -> None:
        """The body comes after `late_s`."""
        self.body: bytes | None = body
        self.receive, self.late_s = receive, late_s
        self.gone = asyncio.Event()
        self.client_is_gone = False

    async def __call__(self) -> Message:
        if self.body is not None and not (self.late_s and await self._ended(self.late_s)):
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._ended()
        return {"type": "http.disconnect"}

    async def _ended(self, within_s: float | None = None) -> bool:
        """Wait until the client leaves or `gone` is set; whether that happened in time."""
        if self.client_is_gone:
            return True
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(self.gone.wait())]
        if self.receive is not None:
            waits.append(asyncio.ensure_future(_disconnected(self.receive)))
        try:
            done, _ = await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            self.client_is_gone = len(waits) == 2 and waits[1] in done
            return bool(done)
        finally:
            for wait in waits:
                wait.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class ProxyReply:
    """Forwards a replica's response, and holds back the proxy's own responses: plain text, only for errors."""

    def __init__(
        self, heard: Callable[[Facts], None], upload: Upload, send: Send | None, client: ClientStream | None = None
    ) -> None:
        """`heard` gets what a replica says of itself. Streams of events go to `client`, all else by `send`; without it
        everything is held back."""
        self.heard, self.upload, self.send, self.client = heard, upload, send, client
        self.status: int | None = None
        self.headers = Headers()
        self.marked = self.passed = self.streams = self.complete = False
        self.differs = False
        """It is none of the answer that was begun."""
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], Headers(raw=message["headers"])
            mark = self.headers.get(MARK)
            self.marked = mark is not None
            if mark is not None:
                self.heard(Facts.read(mark))
            kind = self.headers.get("content-type", "")
            plain = kind.startswith("text/plain")
            self.passed = self.marked or not (plain and message["status"] in (404, 408, 429, 503))
            self.streams = self.marked and self.status == 200 and kind.startswith("text/event-stream")
            if self.client is not None and self.client.begun and not self.streams:
                self.passed = False  # too late for a status
        if not self.passed or self.send is None:
            self.messages.append(message)
        elif self.streams and self.client is not None:
            await self._stream(message, self.client)
        else:
            await self.send(message)

    async def _stream(self, message: Message, client: ClientStream) -> None:
        if message["type"] == "http.response.start":
            return await client.start(message)
        if self.differs:
            return
        try:
            await client.pass_on(message)
            self.complete = not message.get("more_body", False)
        except OtherAnswer:
            self.differs = True
            self.upload.gone.set()

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages).decode(errors="replace")

    async def told(self) -> None:
        """Send the client the proxy's response, or another application's on this cluster.

        Raises:
            Refusal: the proxy's message, in OpenAI's format.
        """
        if self.status == 404 and not self.text.startswith("Path '"):
            assert self.send is not None
            for message in self.messages:
                await self.send(message)
            return
        raise self.refusal()

    @property
    def is_full(self) -> bool:
        """The proxy has refused it because the queue was full."""
        return self.status in (429, 503) and not self.marked and "backpressure" in self.text

    def refusal(self) -> Refusal:
        if self.status == 408:
            return later("no answer within the endpoint's time limit", "timeout", status=504)
        if self.status == 404:  # the proxy has no route before the application is deployed and after it is deleted
            return later("the endpoint is starting or stopping", "not_ready")
        after = self.headers.get("retry-after", "")
        wait = int(after) if after.isdecimal() else LATER
        if self.is_full:
            return later(FULL, "overloaded", wait, self.status or 503)
        return later("no replica could be started; see serve status", "not_ready", 10)


def later(message: str, code: str, after: int = LATER, status: int = 503) -> Refusal:
    return Refusal(f"{message}; try again in {after} s", status=status, code=code, retry_after=after)
