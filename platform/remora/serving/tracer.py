"""Traces of answers, for MLflow (`trace: true`): times, settings and tokens; no text and no picture. No Ray here."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from remora.serving.args import EndpointArgs
from remora.serving.engines.protocol import Delta, ModelFailure, OtherVersion
from remora.serving.openai_api import ChatRequest

if TYPE_CHECKING:
    from remora.tracking.traces import TraceSpan

SETTINGS = ("max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "n", "stream", "logprobs")


class TraceSink(Protocol):
    """`remora.tracking.Traces`."""

    def put(self, trace: TraceSpan, /) -> None: ...

    def close(self) -> None: ...


def traced(args: EndpointArgs) -> Tracer:
    """Traces to MLflow, where the model came from."""
    from remora.tracking.traces import Traces

    args = args.resolved()
    assert args.runs is not None
    return Tracer(Traces(args.runs, args.tracking_uri))


class Tracer:
    """Follows answers and hands a trace of each request to a sink when it has ended."""

    def __init__(self, sink: TraceSink, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.sink, self.now = sink, clock_ns

    async def followed(
        self,
        deltas: AsyncGenerator[tuple[int, Delta], None],
        request: ChatRequest,
        began_ns: int,
        fingerprint: str,
        request_id: str | None,
    ) -> AsyncGenerator[tuple[int, Delta], None]:
        """The deltas of a request's answers, unchanged."""
        read, first, ends = self.now(), 0, dict[int, str]()
        said, error, last = 0, "the client went", Delta("", ())
        try:
            async with aclosing(deltas):
                async for number, delta in deltas:
                    first = first or self.now()
                    said += len(delta.tokens)
                    last = delta
                    if delta.finish_reason is not None:
                        ends[number] = delta.finish_reason
                    yield number, delta
            error = ""
        except OtherVersion:  # the request is read again
            error = "another version"
            raise
        except Exception as e:
            error = e.kind if isinstance(e, ModelFailure) else type(e).__name__
            raise
        finally:
            if len(ends) == (request.n or 1):
                error = ""
            if error != "another version":
                times = (began_ns, read, first)
                self.sink.put(self._trace(request, fingerprint, request_id, times, said, ends, last, error))

    def _trace(
        self,
        request: ChatRequest,
        fingerprint: str,
        request_id: str | None,
        times: tuple[int, int, int],
        said: int,
        ends: dict[int, str],
        last: Delta,
        error: str,
    ) -> TraceSpan:
        from remora.tracking.traces import USAGE, TraceSpan

        (began, read, first), ended = times, self.now()
        usage = {"input_tokens": last.prompt_tokens, "output_tokens": said, "total_tokens": last.prompt_tokens + said}
        parts = [TraceSpan("read", began, read, "PARSER"), TraceSpan("first token", read, first or ended, "LLM")]
        if first:
            parts.append(TraceSpan("decode", first, ended, "LLM"))
        asked = {name: found for name in SETTINGS if (found := getattr(request, name)) is not None}
        return TraceSpan(
            "chat completion",
            began,
            ended,
            "CHAT_MODEL",
            inputs={**asked, "messages": len(request.messages)},
            outputs={"finish_reasons": [ends.get(i) for i in range(request.n or 1)]},
            attributes={
                "system_fingerprint": fingerprint,
                "request_id": request_id,
                "image_tokens": last.image_tokens,
                "cached_tokens": last.cached_tokens,
                USAGE: usage,
            },
            error=error or None,
            parts=tuple(parts),
        )
