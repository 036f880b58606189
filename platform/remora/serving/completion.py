"""From a chat request to requests of an engine. No Ray and no model here: the engine tokenises."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from remora.serving.args import Limits
from remora.serving.champion import ModelFacts
from remora.serving.engines.protocol import VersionedRequest
from remora.serving.images import decode
from remora.serving.messages import ChatTurn, read_messages
from remora.serving.openai_api import ChatRequest, Refusal

if TYPE_CHECKING:
    from PIL import Image

    from remora.inference import Message

DEFAULT_TOKENS = 128
"""Default length of an answer, in tokens; a quarter of the context if that is less."""
CHARACTERS_PER_TOKEN = 64
"""Characters per token, above any tokenizer's average: longer text cannot fit."""


class Reading(Protocol):
    """`images.decode`, or a `PicturePool`'s: from URLs to RGB pictures that `shrink` has made smaller."""

    def __call__(
        self, urls: Sequence[str | bytes], limits: Limits, shrink: Callable[[Image.Image], Image.Image], /
    ) -> list[Image.Image]: ...


def engine_requests(
    chat: ChatRequest, limits: Limits, facts: ModelFacts, decode: Reading = decode
) -> tuple[VersionedRequest, ...]:
    """Read a request for a model and `decode` its pictures: a request to an engine for each of its `n` answers.

    Cheap checks come before expensive work.

    Raises:
        Refusal: a picture, a message or a text that is not allowed, or more than the context could hold.
    """
    said = read_messages(chat.messages, limits, CHARACTERS_PER_TOKEN * facts.max_length)
    bias = _bias(chat, facts)
    turns = _turns(said, limits, facts, decode)
    # Clients send one limit for a whole benchmark, up to 4096, for any model.
    wanted = chat.tokens or min(DEFAULT_TOKENS, max(1, facts.max_length // 4))
    first = secrets.randbelow(2**31) if chat.seed is None else chat.seed % 2**31
    return tuple(
        VersionedRequest(
            turns,
            max_new_tokens=wanted,
            temperature=chat.temperature or 0.0,
            top_p=1.0 if chat.top_p is None else chat.top_p,
            top_k=max(0, chat.top_k or 0),
            seed=first + i,
            stop=tuple(chat.stop or ()),
            frequency_penalty=chat.frequency_penalty or 0.0,
            presence_penalty=chat.presence_penalty or 0.0,
            logit_bias=bias,
            ignore_eos=bool(chat.ignore_eos),
            top_logprobs=chat.best_logprobs,
            version=facts.version,
            streamed=bool(chat.stream),
        )
        for i in range(chat.n or 1)
    )


def _turns(said: list[ChatTurn], limits: Limits, facts: ModelFacts, decode: Reading) -> tuple[Message, ...]:
    from remora.inference import FittedPicture, Message

    # All pictures in one call, since limits are per request. Queued requests hold pictures at the encoder's size only.
    urls = [url for one in said for url in one.urls]
    pictures = iter(decode(urls, limits, facts.fitted) if urls else ())
    return tuple(
        Message(one.role, one.text.strip(), tuple(FittedPicture(next(pictures)) for _ in one.urls)) for one in said
    )


def _bias(request: ChatRequest, facts: ModelFacts) -> tuple[tuple[int, float], ...]:
    bias = request.logit_bias or {}
    strange = next((token for token in bias if not 0 <= token < facts.vocabulary), None)
    if strange is not None:
        raise Refusal(
            f"logit_bias: this model has tokens 0 to {facts.vocabulary - 1}; found {strange}",
            code="invalid_token",
            param="logit_bias",
        )
    return tuple(sorted(bias.items()))
