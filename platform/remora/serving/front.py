"""Middleware in Serve's proxy, before the replicas: it reads request bodies, reports the server's state in OpenAI's
error format, resends the requests of a dead ingress replica, and goes on with the streams that it has begun
(resumed.py). (One of the model's replicas is engines/remote.py's matter.)

Serve's proxy takes middleware from a function that an environment variable names:

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=remora.serving.front:middlewares ray start --head

`remora serve` sets it for the cluster that it starts. Without it the endpoint works by the proxy's own rules: a slow
upload holds a place in a replica's queue, the proxy's errors are plain text, a dead replica is a 500. REMORA_KEYS=FILE
beside it has keys checked here, too, before a body is read. No Ray here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import uuid

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from remora.serving.auth import HEALTH, KeyCheck
from remora.serving.keys import from_written
from remora.serving.openai_api import CHAT, Refusal, too_large
from remora.serving.relay import BODY, FULL, LATE_S, SHORT, Facts, ProxyReply, Upload, later
from remora.serving.resumed import ClientStream

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
KEYS = "REMORA_KEYS"
"""The proxy's key file, or keys as JSON (keys.written). Without it replicas check keys, after the body is read here."""
BODY_S = 60.0
"""Timeout for receiving a body; then 408."""
HEALTH_S = 2.0
"""Timeout of a health check; replicas that are not full answer within it."""
SILENCE_S = 60.0
"""A request is given up if no replica has answered anything for this long, although none can be full."""
HELD = 512 * 2**20
"""Bytes of bodies held at a time."""
FULL_S = 1.0
"""For this long after Serve has refused a request, further ones are refused here, before their bodies are read."""
ATTEMPTS = 3
"""Tries per request: one that kills an ingress replica may kill two more."""
SEED = "x-remora-seed"
"""A header of every request: the seed of one that names none, so that a second replica draws as the first one did."""
BREAKS_S = 110.0
"""A stream that breaks off after this time did so by Serve's time limit, 120 s by default, and not by a death."""
OVERRIDDEN = (b"x-request-id", SEED.encode(), b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
"""Headers set here, or with which a client could lift the proxy's limits."""
_ASCII = bytes(i if i < 128 else ord("?") for i in range(256))


def middlewares() -> list[Middleware]:
    """For Serve's proxy, which calls this before it starts its server.

    The server parses with h11. httptools, uvicorn's default, ends a request at an upgrade offer, which HTTP/2 clients
    send over plain http (every Java client, `curl --http2`), and loses its body; h11 reads on, and the answer is
    HTTP/1.1.
    """
    import uvicorn.config

    uvicorn.config.HTTP_PROTOCOLS["auto"] = uvicorn.config.HTTP_PROTOCOLS["h11"]
    keys = os.environ.get(KEYS)
    checks = [Middleware(KeyCheck, keys=from_written(keys))] if keys else []
    return [Middleware(Front), *checks]  # Serve's last one sees a request first


class Front:
    """The middleware. One per proxy, on the proxy's event loop."""

    def __init__(self, app: ASGIApp, body_s: float = BODY_S, silence_s: float = SILENCE_S) -> None:
        self.app, self.body_s, self.silence_s = app, body_s, silence_s
        self.facts = Facts()
        self.going = 0
        """Requests that wait for a replica or for its answer."""
        self.full_at = 0
        """The others that were going when Serve last refused a request since its queue was full; until `full_until`."""
        self.full_until = 0.0
        self.held = 0
        self.health: dict[str, object] | None = None
        """A replica's last health response; None if none has answered yet, or one has died since."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            return await self.app(scope, receive, send)
        # Serve's proxy reads some headers as UTF-8, and a letter beyond it would be a 500.
        headers = [(key.lower(), value.translate(_ASCII)) for key, value in scope["headers"]]
        request_id = (Headers(raw=headers).get("x-request-id") or str(uuid.uuid4()))[:200]
        headers = [(key, value) for key, value in headers if key not in OVERRIDDEN]
        seed = (SEED.encode(), str(secrets.randbelow(2**31)).encode())
        scope = {**scope, "headers": [*headers, (b"x-request-id", request_id.encode()), seed]}
        held = bytearray()
        try:
            if not scope["path"].startswith("/"):  # a whole URL, which is for proxies; Serve has no route for it
                raise Refusal(f"no route: {scope['path'][:80]!r} is no path", status=404)
            if scope["path"] in (*HEALTH, "/readyz") and scope["method"] in ("GET", "HEAD"):
                state = await (self._healthz() if scope["path"] in HEALTH else self._readyz())
                return await _send(send, 200, state, {"x-request-id": request_id})
            self._check_room()
            try:  # a slow upload takes no place
                await asyncio.wait_for(self._read(scope, receive, held), self.body_s)
            except TimeoutError:
                late = f"the body did not come within {self.body_s:g} seconds; {len(held)} bytes of it did"
                raise Refusal(late, status=408, code="request_timeout") from None
            self._check_room()
            self.going += 1
            try:
                await self._answered(scope, bytes(held), receive, send)
            finally:
                self.going -= 1
        except Refusal as refusal:
            await _send(send, refusal.status, refusal.body(), {**refusal.headers, "x-request-id": request_id})
        except ConnectionResetError:  # the client is gone
            return
        finally:
            self.held -= len(held)

    def _check_room(self) -> None:
        """Raises:
        Refusal: as many requests are under way as may be; or Serve's queue was full a moment ago, and no request
            has left it since. A refusal by Serve's router costs several times as much, of a machine that has nothing
            left, and it does not count those that it has sent to a replica which has not accepted them yet: on a
            busy machine thousands (Ray 2.60).
        """
        still_full = self.going >= self.full_at and asyncio.get_running_loop().time() < self.full_until
        if still_full or self.going >= self.facts.most:
            raise later(FULL, "overloaded", status=429)

    async def _read(self, scope: Scope, receive: Receive, held: bytearray) -> None:
        """Read the body into `held`, before the request joins any queue."""
        declared = Headers(scope=scope).get("content-length")
        if declared and declared.isdecimal():
            await self._check_length(int(declared), declared)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            chunk = message.get("body", b"")
            held += chunk
            self.held += len(chunk)
            await self._check_length(len(held), declared)
            if self.held > HELD:
                raise later("the endpoint holds as many uploads as it may", "overloaded", status=429)
            if not message.get("more_body", False):
                return

    async def _check_length(self, length: int, declared: str | None) -> None:
        if length > self.facts.max_body_bytes and self.health is None:
            await self._ask_health()  # no replica has reported its limits yet
        if length > self.facts.max_body_bytes:
            raise too_large(self.facts.max_body_bytes, declared)

    async def _answered(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Have a replica answer; if it dies, another one: an answer depends only on its request. A stream goes on
        behind what its client has; if that is not possible it ends with an error.

        Raises:
            Refusal: none could.
            ConnectionResetError: the client is gone.
        """
        client = ClientStream(send)
        try:
            await self._by_some_replica(scope, body, receive, client)
        except Refusal as refusal:
            if not client.begun:
                raise
            await client.fail(refusal)

    async def _by_some_replica(self, scope: Scope, body: bytes, receive: Receive, client: ClientStream) -> None:
        began = asyncio.get_running_loop().time()
        along = {BODY: body} if scope["path"] == CHAT and len(body) <= SHORT else {}
        for attempt in range(ATTEMPTS):
            upload = Upload(body, receive, LATE_S if along else 0)
            reply = ProxyReply(self._heard, upload, client.send, client)
            task = asyncio.ensure_future(self.app({**scope, "headers": list(scope["headers"]), **along}, upload, reply))
            try:
                if await self._is_silent(task, reply):
                    raise later("no replica answers", "no_replica", 10)
                await task
            finally:
                upload.gone.set()  # Serve removes the request from its queue
                if not task.done():
                    await asyncio.wait({task}, timeout=1)
            if reply.complete or (reply.passed and not reply.streams):
                return
            if upload.client_is_gone:
                raise ConnectionResetError
            if client.over:
                return await client.end()
            if client.begun:
                self._check_goes_on(client, reply, began)
            elif reply.status is not None:
                if reply.is_full:
                    self.full_at, self.full_until = self.going - 1, asyncio.get_running_loop().time() + FULL_S
                return await reply.told()
            self.health = None  # no response, or half of one: the replica died, or its node
            await asyncio.sleep(0.1 * attempt)
        raise later(f"{ATTEMPTS} replicas died of this request or beside it", "replica_died")

    def _check_goes_on(self, client: ClientStream, reply: ProxyReply, began: float) -> None:
        """Raises:
        Refusal: a stream that broke off cannot go on.
        """
        if asyncio.get_running_loop().time() - began > BREAKS_S:
            raise later("no answer within the endpoint's time limit", "timeout", status=504)
        if not reply.streams or reply.differs or not client.resumable:
            raise later("the replica that sent this answer died, and no other one goes on with it", "replica_died")

    def _heard(self, facts: Facts) -> None:
        self.facts = facts
        self.health = self.health or {"status": "ok"}

    async def _is_silent(self, task: asyncio.Future[None], reply: ProxyReply) -> bool:
        """Wait for a request's end; true if it must be given up, since no living replica could answer it."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            done, _ = await asyncio.wait({task}, timeout=min(5.0, self.silence_s / 4))
            if done or reply.passed:
                return False
            # With fewer requests than one replica has places, a living replica has a place for the health check.
            if self.going >= self.facts.places or (await self._ask_health()).marked:
                last = loop.time()
            elif loop.time() - last > self.silence_s:
                return True

    async def _ask_health(self, path: str = HEALTH[0]) -> ProxyReply:
        """Ask a replica for its health, with a timeout that one that is not full meets."""
        upload = Upload(b"")
        reply = ProxyReply(self._heard, upload, None)
        scope: dict[str, object] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"x-request-id", str(uuid.uuid4()).encode())],
            "server": None,
            "client": ("127.0.0.1", 0),
        }
        task = asyncio.ensure_future(self.app(scope, upload, reply))
        await asyncio.wait({task}, timeout=HEALTH_S)
        upload.gone.set()
        await asyncio.wait({task}, timeout=1)
        with contextlib.suppress(ValueError):
            if reply.marked and reply.status == 200 and path in HEALTH:
                self.health = json.loads(reply.text)
        return reply

    async def _healthz(self) -> dict[str, object]:
        """A replica's health response; while all are full, the last one.

        Raises:
            Refusal: no replica lives, or none has started yet.
        """
        reply = await self._ask_health()
        if reply.marked and self.health:
            return self.health
        if self.going and self.health and reply.status != 404:
            return {**self.health, "status": "busy"}
        if reply.status is not None:
            raise reply.refusal()
        raise later("no replica answers", "no_replica")

    async def _readyz(self) -> dict[str, object]:
        """A replica's answer to whether it would take a request now.

        Raises:
            Refusal: none would: none lives, has started or has room.
        """
        reply = await self._ask_health("/readyz")
        if reply.marked and reply.status == 200:
            with contextlib.suppress(ValueError):
                return dict(json.loads(reply.text))
        if reply.marked or reply.status is None:
            raise later("no replica would answer now", "not_ready")
        raise reply.refusal()


async def _send(send: Send, status: int, body: dict[str, object], headers: dict[str, str]) -> None:
    response = JSONResponse(body, status_code=status, headers=headers)
    await send({"type": "http.response.start", "status": status, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body})
