"""The attacks that hold or drop many connections, while a bystander asks an ordinary question over and over."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from remora.serving.attack.connections import BODY
from remora.serving.attack.judge import Shot, problem
from remora.serving.attack.wire import Attacked, leave, parsed, question

SLOW = 12
"""Connections that are held open."""
SLOW_S = 4.0
GONE = 60
"""Clients that leave, 8 at a time."""


def slowloris(at: Attacked) -> Iterator[Shot]:
    """Connections that send a byte now and then and never a whole request: half of them never end their head
    (Slowloris, 2009), half never their body (R-U-Dead-Yet). Servers with a thread a connection, or that queue a request
    before its body has come, stop answering others."""
    end = time.monotonic() + SLOW_S
    starts = {"a head": at.head()[:-2], "a body": at.head("Content-Length: 100000")}
    with contextlib.ExitStack() as held:
        open_ones = []
        for i in range(SLOW):
            name = ("a head", "a body")[i % 2]
            try:
                raw = held.enter_context(at.connected())
                raw.sendall(starts[name])
            except OSError as e:
                yield Shot(f"{name}, {i + 1}", 0, "refused", f"no connection ({type(e).__name__})")
                continue
            open_ones.append((f"{name}, {i + 1}", raw))
        sent = dict.fromkeys((name for name, _ in open_ones), 0)
        closed: set[str] = set()
        while time.monotonic() < end:
            for name, raw in open_ones:
                if name in closed:
                    continue
                try:
                    raw.sendall(b"X-A: b\r\n" if name.startswith("a head") else b" ")
                    sent[name] += 1
                except OSError:  # the endpoint has had enough of it
                    closed.add(name)
            time.sleep(0.25)
        for name, raw in open_ones:
            raw.settimeout(0.01)
            found = b""
            with contextlib.suppress(OSError):
                found = raw.recv(65536)
            came = parsed(found)
            wrong = problem(came, "refused", storm=True, parser=True)
            state = came.short if found else "closed" if name in closed else "held open"
            yield Shot(f"{name} in {sent[name]} pieces", sent[name], state, wrong)


def disconnects(at: Attacked) -> Iterator[Shot]:
    """Clients that go: in the middle of a request, before the answer, in the middle of its stream. A model may be full
    of answers that nobody waits for; one such client crashed a batch of OpenVINO Model Server (its issue 4428)."""
    yield from _at_once(GONE, lambda i: _gone(at, i))


def crowds(at: Attacked) -> Iterator[Shot]:
    """As many requests as clients with a bug send, at once: answered, or told when to come again."""

    def ask(i: int) -> Shot:
        body = question("hi", n=2)
        came = at.post(body)
        return Shot(f"client {i + 1}", len(body), came.short, problem(came, "answered", storm=True))

    yield from _at_once(GONE, ask)


def _at_once(many: int, do: Callable[[int], Shot]) -> Iterator[Shot]:
    with ThreadPoolExecutor(8) as clients:
        yield from clients.map(do, range(many))


def _gone(at: Attacked, i: int) -> Shot:
    how = ("half a request", "a request", "a stream")[i % 3]
    body = BODY if how == "a request" else question("Tell me everything.", stream=True, max_tokens=64)
    data = at.head(f"Content-Length: {len(body)}", "Content-Type: application/json") + body
    data = data[:-5] if how == "half a request" else data
    name = f"{how}, client {i + 1}"
    found = b""
    try:
        with at.connected() as raw:
            raw.sendall(data)
            if how == "a stream":
                found = raw.recv(4096)
            leave(raw)
    except TimeoutError:
        return Shot(name, len(data), "timeout", "no answer: timeout")
    except OSError as e:
        return Shot(name, len(data), "closed", f"no connection ({type(e).__name__})")
    if not found:
        return Shot(name, len(data), "gone")
    came = parsed(found)
    # Of a refusal only the beginning was read, so its form is not judged.
    wrong = problem(came, "answered", storm=True) if came.status is None or came.status >= 500 else None
    return Shot(name, len(data), came.short, wrong)


class BystanderThread:
    """Asks an ordinary question until it is told to stop: each must be answered, after retries where those are asked
    for."""

    def __init__(self, asks: Callable[[], str | None]) -> None:
        self.asks = asks
        self.answered = 0
        self.problem: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)

    def __enter__(self) -> BystanderThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _go(self) -> None:
        while self.problem is None:
            self.problem = self.asks()
            self.answered += self.problem is None
            if self._stop.wait(0.2):
                return
