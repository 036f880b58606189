"""Who may ask: a key in the Authorization header, checked before a body is read, and the limits of who holds it.

The same middleware stands in Serve's proxy, where it counts a node's requests (front.py), and in every replica, which
also answers where the proxy has none. Without keys only this machine is answered. No Ray here.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from remora.serving.keys import ApiKey, KeyRing, is_loopback
from remora.serving.openai_api import Refusal

HEALTH = ("/healthz", "/health")
"""The health check, and its name in vLLM, which load tests ask."""
OPEN = (*HEALTH, "/readyz", "/-/healthz", "/")
"""Read without a key: health, Serve's own, and the page, which is a file that asks its reader for a key."""
READING = ("GET", "HEAD")
GOING_S = 1
"""Retry-After of a request above the limit of concurrent ones."""


@dataclass
class _Holder:
    """What a key's holder has used."""

    left: float
    """Requests that may come now."""
    at: float
    going: int = 0


class KeyCheck:
    """The middleware. `keys` of None answers this machine alone."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Path | Mapping[str, ApiKey] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app, self.clock = app, clock
        self.ring = None if keys is None else KeyRing(keys, clock)
        self.holders: dict[str, _Holder] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # nothing here speaks it
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            holder = self._admitted(scope, Headers(scope=scope))
        except Refusal as refusal:
            response = JSONResponse(refusal.body(), status_code=refusal.status, headers=refusal.headers)
            response.headers["x-request-id"] = (Headers(scope=scope).get("x-request-id") or str(uuid.uuid4()))[:200]
            if refusal.status == 401:
                response.headers["www-authenticate"] = "Bearer"
            return await response(scope, receive, send)
        if holder is None:
            return await self.app(scope, receive, send)
        holder.going += 1
        try:
            await self.app(scope, receive, send)
        finally:
            holder.going -= 1

    def _admitted(self, scope: Scope, headers: Headers) -> _Holder | None:
        """Whose request is counted while it is answered; None if it is not counted.

        Raises:
            Refusal: 401, no key or a wrong one; 403, keys are off and it comes from elsewhere; 429, above a limit.
        """
        reading, path = scope["method"] in READING, scope["path"].removeprefix(scope.get("root_path", ""))
        if self.ring is None:
            if not (reading and path in OPEN):
                _check_is_local(scope, headers)
            return None
        if (reading and path in OPEN and not _has_body(headers)) or _is_preflight(scope, headers):
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Refusal(
                "a key is needed: send `Authorization: Bearer KEY`; the endpoint's operator makes one by "
                "`remora keys add`",
                status=401,
                code="missing_api_key",
            )
        found = self.ring.find(key.strip().encode("latin-1"))
        if found is None:
            raise Refusal("the key is not valid here", status=401, code="invalid_api_key")
        scope.setdefault("state", {})["key_name"] = found[0]
        return None if reading else self._counted(*found)

    def _counted(self, name: str, key: ApiKey) -> _Holder:
        now, most = self.clock(), key.requests_per_minute
        holder = self.holders.setdefault(name, _Holder(most or 0, now))
        if key.concurrent is not None and holder.going >= key.concurrent:
            raise _limited(f"{key.concurrent} requests of {name!r} are in work, as many as its key may have", GOING_S)
        if most is not None:
            holder.left = min(most, holder.left + (now - holder.at) * most / 60)
            holder.at = now
            if holder.left < 1:
                wait = math.ceil((1 - holder.left) * 60 / most)
                raise _limited(f"{name!r} has sent its {most} requests a minute", wait)
            holder.left -= 1
        return holder


def _limited(message: str, wait: int) -> Refusal:
    return Refusal(f"{message}; try again in {wait} s", status=429, code="rate_limit_exceeded", retry_after=wait)


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    """Whether a browser asks if a page may ask; it sends no key with that."""
    asking = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
    return asking and not _has_body(headers)


def _check_is_local(scope: Scope, headers: Headers) -> None:
    """Raises:
    Refusal: the sender is not on this machine; or a page of another site has its name point here (DNS rebinding).
    """
    client = scope.get("client")
    if client and not is_loopback(client[0]):
        raise _elsewhere(f"it came from {client[0]}")
    host = headers.get("host")
    if host is not None:
        name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        if not is_loopback(name):
            raise _elsewhere(f"it was sent to {name[:80]!r}")


def _elsewhere(what: str) -> Refusal:
    return Refusal(
        f"this endpoint has no keys, so it answers requests from this machine to localhost only; {what}; next: "
        "remora serve --keys FILE",
        status=403,
        code="keys_are_off",
    )
