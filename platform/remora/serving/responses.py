"""Answers in OpenAI's format: whole, or as server-sent events while they grow. No Ray here."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from remora.serving.engines.protocol import Chosen, Delta, Likely, ModelFailure
from remora.serving.openai_api import Refusal

UNLIKELY = -9999.0
"""OpenAI's value for a log probability that is no number."""
DONE = b"data: [DONE]\n\n"


class TopLogprobBody(TypedDict):
    token: str
    logprob: float
    bytes: list[int] | None


class LogprobBody(TopLogprobBody):
    top_logprobs: list[TopLogprobBody]


class LogprobsBody(TypedDict):
    content: list[LogprobBody]
    refusal: None


class PromptTokensDetails(TypedDict):
    cached_tokens: int
    image_tokens: int


class UsageBody(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


@dataclass(frozen=True)
class Head:
    """What every chunk of a response says."""

    model: str
    system_fingerprint: str
    """Registered name and version that answers: `remora@3`."""
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, kind: str) -> dict[str, object]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }


def whole(head: Head, answers: Sequence[Delta]) -> dict[str, object]:
    """The response with complete answers."""
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": one.text, "refusal": None},
            "finish_reason": one.finish_reason,
            "logprobs": _logprobs(one.logprobs) if one.logprobs else None,
        }
        for i, one in enumerate(answers)
    ]
    return {**head.body("chat.completion"), "choices": choices, "usage": usage(answers)}


def usage(answers: Sequence[Delta]) -> UsageBody:
    """Tokens of a request's answers. Their prompt counts once; the least that any of them shared is cached."""
    prompt, completion = answers[0].prompt_tokens, sum(len(one.tokens) for one in answers)
    details: PromptTokensDetails = {
        "cached_tokens": min(one.cached_tokens for one in answers),
        "image_tokens": answers[0].image_tokens,
    }
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": details,
    }


async def events(
    head: Head, deltas: AsyncIterator[tuple[int, Delta]], choices: int, include_usage: bool, counts_along: bool = False
) -> AsyncIterator[bytes]:
    """A response as server-sent events: each answer's role, its pieces as they come and its end, then usage if that is
    wanted, and `[DONE]`. With `counts_along` each event has the usage so far. A failure on the way is an error event,
    and nothing follows it. Events that are there together come together, since Ray carries each on its own."""
    base = head.body("chat.completion.chunk")

    def chunk(index: int, delta: dict[str, str], end: str | None = None, logprobs: LogprobsBody | None = None) -> bytes:
        told = {"index": index, "delta": delta, "finish_reason": end, "logprobs": logprobs}
        so_far = usage(list(counted.values())) if counts_along and counted else None
        return _event({**base, "choices": [told], **({"usage": so_far} if include_usage else {})})

    counted: dict[int, Delta] = {}
    unfinished = choices
    ready = [chunk(index, {"role": "assistant", "content": ""}) for index in range(choices)]
    try:
        async for index, delta in deltas:
            counted[index] = counted[index] + delta if index in counted else delta
            if delta.text or delta.logprobs:
                logprobs = _logprobs(delta.logprobs) if delta.logprobs else None
                ready.append(chunk(index, {"content": delta.text}, None, logprobs))
            if delta.finish_reason is not None:
                ready.append(chunk(index, {}, delta.finish_reason))
                unfinished -= 1
            if ready and unfinished:
                yield b"".join(ready)
                ready.clear()
    except Exception as error:  # noqa: BLE001 (told to the client; the engine has logged it)
        yield b"".join((*ready, _event(failed(error).body())))
        return
    if include_usage:
        ready.append(_event({**base, "choices": [], "usage": usage([counted[i] for i in range(choices)])}))
    yield b"".join((*ready, DONE))


def failed(error: Exception) -> Refusal:
    """A failure of the model as clients see it: its kind alone. The traceback is in the replica's log."""
    kind = error.kind if isinstance(error, ModelFailure) else type(error).__name__
    return Refusal(f"the model failed with {kind}; see the replica's log", status=500)


def _event(body: object) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def _logprobs(chosen: Sequence[Chosen]) -> LogprobsBody:
    told: list[LogprobBody] = [
        {**_likely(one.token), "top_logprobs": [_likely(each) for each in one.best]} for one in chosen
    ]
    return {"content": told, "refusal": None}


def _likely(one: Likely) -> TopLogprobBody:
    return {
        "token": one.text,
        "logprob": max(one.logprob, UNLIKELY) if one.logprob == one.logprob else UNLIKELY,
        "bytes": None if one.bytes is None else list(one.bytes),
    }
