"""From a request to turns, and from a batch of requests to answers. No Ray here: app.py calls this in its threads."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from remora.errors import DataError
from remora.serving.args import Limits
from remora.serving.images import decode
from remora.serving.protocol import ChatRequest, ImagePart, Refusal, TextPart

if TYPE_CHECKING:
    from remora.inference import Answer, Answerer, Turn

DEFAULT_TOKENS = 128
"""Length of an answer when the request does not say; a quarter of the context where that is less."""
CHARACTERS_PER_TOKEN = 64
"""More than any tokenizer's average: text beyond it cannot fit."""


@dataclass(frozen=True)
class Job:
    """One request, decoded: what the Answerer needs to answer it."""

    conversation: tuple[Turn, ...]
    max_new_tokens: int
    """At most: what the context has no room for is not said, and the answer ends with `length`."""
    temperature: float
    seed: int


def job(request: ChatRequest, limits: Limits, max_length: int) -> Job:
    """Decode a request for a model with `max_length` tokens of context.

    Raises:
        Refusal: a picture, a role or a text that is not allowed.
    """
    tokens = request.tokens or min(DEFAULT_TOKENS, max(1, max_length // 4))
    characters = sum(len(part.text) for m in request.messages for part in m.content if isinstance(part, TextPart))
    if characters > CHARACTERS_PER_TOKEN * max_length:  # 20 MB of text would keep the tokenizer busy for seconds
        raise Refusal(
            f"the messages have {characters} characters; this model holds {max_length} tokens",
            code="context_length_exceeded",
            param="messages",
        )
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed % 2**31
    return Job(_conversation(request, limits), tokens, request.temperature or 0.0, seed)


def _conversation(request: ChatRequest, limits: Limits) -> tuple[Turn, ...]:
    from remora.inference import Turn

    urls: list[list[str]] = []
    for message in request.messages:
        urls.append([part.image_url.url for part in message.content if isinstance(part, ImagePart)])
        if urls[-1] and message.role != "user":
            raise Refusal(f"messages: an image in a {message.role} message; only user messages may", param="messages")
    pictures = iter(decode([url for found in urls for url in found], limits))  # together: limits are per request
    turns = []
    for message, found in zip(request.messages, urls, strict=True):
        text = "\n".join(part.text for part in message.content if isinstance(part, TextPart))
        role = "system" if message.role == "developer" else message.role
        turns.append(Turn(role, text, tuple(next(pictures) for _ in found)))
    return tuple(turns)


def answer_all(answerer: Answerer, jobs: Sequence[Job]) -> list[Answer | Refusal]:
    """An answer, or the reason for none, for each of `jobs`.

    Greedy jobs of equal length limit go through the model together: their answers do not depend on it. A sampled one
    goes alone, so that its seed alone decides its answer.
    """
    results: dict[int, Answer | Refusal] = {}
    groups: dict[tuple[int, int | None], list[int]] = {}
    for i, one in enumerate(jobs):
        try:
            # Clients send a limit for a whole benchmark, up to 4096, whatever model they ask.
            limit = min(one.max_new_tokens, answerer.room(one.conversation))
        except DataError as e:
            results[i] = Refusal(str(e), code="invalid_conversation", param="messages")
        else:
            groups.setdefault((limit, None if one.temperature == 0 else i), []).append(i)
    for (limit, _), members in groups.items():
        first = jobs[members[0]]
        said = answerer.answer(
            [jobs[i].conversation for i in members],
            max_new_tokens=limit,
            temperature=first.temperature,
            seed=first.seed,
        )
        results.update(zip(members, said, strict=True))
    return [results[i] for i in range(len(jobs))]
