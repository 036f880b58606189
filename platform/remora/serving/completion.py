"""From a chat request to model requests, and from answers to a response. No Ray here."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from remora.errors import DataError, TooLong
from remora.serving.args import Limits
from remora.serving.images import decode
from remora.serving.messages import ChatTurn, read_messages
from remora.serving.openai_api import ChatRequest, Refusal

if TYPE_CHECKING:
    from remora.inference import Answerer, Message, Request

DEFAULT_TOKENS = 128
"""Default length of an answer, in tokens; a quarter of the context if that is less."""
CHARACTERS_PER_TOKEN = 64
"""Characters per token, above any tokenizer's average: longer text cannot fit."""


def engine_requests(chat: ChatRequest, limits: Limits, answerer: Answerer) -> tuple[Request, ...]:
    """Decode and tokenise a request for a model: one `Request` for each of its `n` answers.

    `max_new_tokens` is at most what the context has room for. Cheap checks come before expensive work.

    Raises:
        Refusal: a picture, a message or a text that is not allowed, or more than the context holds.
    """
    from remora.inference import Request

    said = read_messages(chat.messages, limits, CHARACTERS_PER_TOKEN * answerer.max_length)
    bias = _bias(chat, answerer)
    try:
        prompt = answerer.prompt(_turns(said, limits, answerer))
    except TooLong as e:
        # Clients recognise this wording (litellm, LangChain).
        raise Refusal(
            f"This model's maximum context length is {e.holds} tokens. However, your messages resulted in {e.prompt} "
            "tokens; shorten the conversation",
            code="context_length_exceeded",
            param="messages",
        ) from None
    except DataError as e:
        raise Refusal(str(e), code="invalid_conversation", param="messages") from None
    # Clients send one limit for a whole benchmark, up to 4096, for any model.
    wanted = chat.tokens or min(DEFAULT_TOKENS, max(1, answerer.max_length // 4))
    first = secrets.randbelow(2**31) if chat.seed is None else chat.seed % 2**31
    return tuple(
        Request(
            prompt,
            max_new_tokens=min(wanted, answerer.room(prompt)),
            temperature=chat.temperature or 0.0,
            top_p=1.0 if chat.top_p is None else chat.top_p,
            top_k=max(0, chat.top_k or 0),
            seed=first + i,
            stop=tuple(chat.stop or ()),
            frequency_penalty=chat.frequency_penalty or 0.0,
            presence_penalty=chat.presence_penalty or 0.0,
            logit_bias=bias,
            top_logprobs=chat.best_logprobs,
        )
        for i in range(chat.n or 1)
    )


def _turns(said: list[ChatTurn], limits: Limits, answerer: Answerer) -> list[Message]:
    from remora.inference import Message

    # All pictures in one call, since limits are per request. Queued requests hold pictures at the encoder's size only.
    pictures = iter(decode([url for one in said for url in one.urls], limits, answerer.fitted))
    return [Message(one.role, one.text.strip(), tuple(next(pictures) for _ in one.urls)) for one in said]


def _bias(request: ChatRequest, answerer: Answerer) -> tuple[tuple[int, float], ...]:
    bias = request.logit_bias or {}
    strange = next((token for token in bias if not 0 <= token < answerer.vocabulary), None)
    if strange is not None:
        raise Refusal(
            f"logit_bias: this model has tokens 0 to {answerer.vocabulary - 1}; found {strange}",
            code="invalid_token",
            param="logit_bias",
        )
    return tuple(sorted(bias.items()))
