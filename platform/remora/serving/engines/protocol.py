"""What the endpoint asks of an engine, and what an engine streams: plain values, which can be pickled.

    async for delta in engine.submit(request):
        ...  # delta.text; the last one has a finish_reason

Closing the stream (`aclose`, or its task's cancellation) cancels the request. An answer follows from its request alone,
so another engine of the same model goes on behind tokens that a client already has: `Request.said`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from remora.errors import ServingError
from remora.inference.requests import Event, Request

if TYPE_CHECKING:
    from remora.inference import Stats


@dataclass(frozen=True)
class VersionedRequest(Request):
    """A request that was read for one version of the served model: its pictures have the size of that one's encoder."""

    version: str = ""
    streamed: bool = True
    """Its client reads the answer as it grows. If not, more of its deltas come together (`spaced`)."""


@dataclass(frozen=True)
class Likely:
    """A token at one position of an answer."""

    token: int
    text: str
    """By itself; a part of a character is shown as a replacement character."""
    bytes: bytes | None
    """Those of an answer's tokens make, joined, its text in UTF-8. None for special tokens."""
    logprob: float
    """The natural logarithm of its probability in the model's own distribution (`remora.inference.Logprobs`)."""


@dataclass(frozen=True)
class Chosen:
    """The token at one position of an answer, and the most likely ones there, best first."""

    token: Likely
    best: tuple[Likely, ...] = ()


@dataclass(frozen=True)
class Delta:
    """The next piece of an answer: one token of it, or several."""

    text: str
    """Joined, the texts of an answer's deltas are the whole answer. Text that a later token may change, or that may
    begin a stop text, comes with a later delta."""
    tokens: tuple[int, ...]
    logprobs: tuple[Chosen, ...] = ()
    """One for each token but the end token, if the request asks for them."""
    finish_reason: Literal["stop", "length"] | None = None
    """Of the last delta."""
    prompt_tokens: int = 0
    image_tokens: int = 0
    """Tokens of the prompt that are pictures'."""
    cached_tokens: int = 0
    """Tokens of the prompt that were not read again, since an earlier prompt began with them."""

    def __add__(self, later: Delta) -> Delta:
        return replace(
            later,
            text=self.text + later.text,
            tokens=self.tokens + later.tokens,
            logprobs=self.logprobs + later.logprobs,
        )


@dataclass(frozen=True)
class EngineStats:
    """An engine's state."""

    load: Stats
    steps: int
    """Steps since it started, those that failed too."""
    stalled_s: float
    """Seconds since its thread last began a step or had nothing to do: small, unless the thread hangs."""
    failed: int
    """Requests that failed in a step."""
    rebuilt: int
    """Failures of a step, after each of which the running requests were given to a fresh engine."""
    has_cache: bool = True
    """Whether the keys and values are here, so that `load.cache_bytes` is known."""


class StepEngine(Protocol):
    """Answers requests step by step; one thread owns it. `remora.inference.AnswerEngine` says what each does."""

    def add(self, request: Request) -> int: ...

    def cancel(self, number: int) -> None: ...

    def waits(self, number: int) -> bool: ...

    @property
    def busy(self) -> bool: ...

    @property
    def stats(self) -> Stats: ...

    def step(self) -> list[Event]: ...


class ServingEngine(Protocol):
    """Answers requests of one model. Its methods belong to an event loop; any number of loops may use it."""

    def submit(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Stream an answer, of at most as many tokens as the context has room for.

        Raises:
            DataError: the request cannot be answered (as `Answerer.prompt`).
            Draining: the engine takes no more requests.
            OtherVersion: the request was read for another version of the model.
            Exception: the model's, if this request makes it fail.
        """
        ...

    @property
    def stats(self) -> EngineStats: ...

    async def ready(self) -> bool:
        """Whether it would take a request now."""
        ...

    async def drain(self) -> None:
        """Take no more requests, and return when those that it has are answered or cancelled."""
        ...


class Draining(ServingError):
    """The engine takes no more requests: it is about to stop."""


class ModelFailure(ServingError):
    """The model failed with an exception of this kind, in another process, whose log has it."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"the model failed with {kind}")
        self.kind = kind

    def __reduce__(self) -> tuple[type[ModelFailure], tuple[str]]:
        return type(self), (self.kind,)


class ReplicasDied(ServingError):
    """Several replicas died of a request, or beside it."""


class OtherVersion(ServingError):
    """The version that a request was read for takes no new requests; another one does."""
