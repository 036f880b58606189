"""The served part of OpenAI's chat completions: requests, and refusals in OpenAI's error format.

A field that would change an answer is either implemented or refused by name; docs/serving.md has the list.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import from_json

from remora.errors import ServingError
from remora.serving.args import Limits
from remora.spec.messages import broken_rule

CHAT = "/v1/chat/completions"
TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeoutError",
}
SHOWN = 240
"""Maximum characters of a refusal; it may repeat the client's input."""

LIMITS = Limits()
MOST_LOGPROBS = 20
"""OpenAI's limit of `top_logprobs`."""

NOTHING: tuple[Any, ...] = ()
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "audio": NOTHING,
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": NOTHING,
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": NOTHING,
    "guided_grammar": NOTHING,
    "guided_json": NOTHING,
    "guided_regex": NOTHING,
    "length_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "moderation": NOTHING,
    "prediction": NOTHING,
    "prompt_logprobs": NOTHING,
    "reasoning_effort": ("none",),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "stop_token_ids": ([],),
    "structured_outputs": NOTHING,
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": NOTHING,
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": NOTHING,
}
"""Unsupported fields of OpenAI and vLLM, with their neutral values. Other values are refused."""
IGNORED = {
    "cache_salt",
    "include_reasoning",
    "metadata",
    "parallel_tool_calls",
    "priority",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "request_id",
    "safety_identifier",
    "service_tier",
    "store",
    "stream_options",
    "user",
}
"""Fields that do not affect the answer."""


class Refusal(ServingError):
    """A refused request: an HTTP status, one line for people, a code for programs."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        line = " ".join(message.split())
        super().__init__(line if len(line) <= SHOWN else f"{line[:SHOWN]}…")
        self.status, self.code, self.param = status, code, param[:SHOWN] if param else param
        self.retry_after = retry_after
        """Seconds after which to retry."""

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, TYPES[500 if self.status >= 500 else 400])
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


def too_large(limit: int, declared: str | None) -> Refusal:
    """The refusal of a body longer than `limit` bytes, by its declared or actual length."""
    found = f"has {declared[:20]}" if declared else "is longer"
    return Refusal(f"a request may have {limit} bytes; this one {found}", status=413, code="request_too_large")


class StreamOptions(BaseModel):
    include_usage: bool | None = None
    """A last event has the token counts."""
    continuous_usage_stats: bool | None = None
    """As in vLLM, beside `include_usage`: each event has the counts so far."""


class ChatRequest(BaseModel):
    """Body of POST /v1/chat/completions. null is the same as an omitted field."""

    model_config = ConfigDict(extra="allow")

    messages: list[Any] = Field(min_length=1)
    """The conversation: turns with `role` and `content`, as sent (docs/serving.md#messages)."""
    model: str | None = None
    """A name from GET /v1/models; default: the first model."""
    max_tokens: int | None = Field(None, ge=1)
    """Tokens of the answer, at most; default: 128, or a quarter of a small context."""
    max_completion_tokens: int | None = Field(None, ge=1)
    """The same by its newer name."""
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    """0, the default: the likeliest token. Above: drawn."""
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    """Draw from the likeliest tokens that have this much probability together."""
    top_k: int | None = Field(None, ge=-1)
    """As in vLLM; -1 and 0 mean all tokens."""
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    """The same seed draws the same answer."""
    stop: list[str] | None = Field(None, max_length=16)
    """Texts that end the answer, which does not have them: one, or up to 16."""
    frequency_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    """Subtracted from a token's score for each time that the answer has it."""
    presence_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    """Subtracted from a token's score if the answer has it."""
    logit_bias: dict[int, float] | None = Field(None, max_length=1024)
    """Token id to what is added to its score, -100 to 100."""
    ignore_eos: bool | None = None
    """As in vLLM: the end token does not end the answer, so that it has as many tokens as it may, for load tests."""
    n: int | None = Field(None, ge=1)
    """Answers to the same question."""
    logprobs: bool | None = None
    """Whether each token comes with its log probability."""
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    """Likeliest tokens that come with each token."""
    stream: bool | None = None
    """Whether the answer comes as server-sent events, token by token."""
    stream_options: StreamOptions | None = None
    """`include_usage: true` adds a last event with the token counts."""

    @field_validator("stop", mode="before")
    @classmethod
    def _stop(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @field_validator("stop")
    @classmethod
    def _stops(cls, stop: list[str] | None) -> list[str] | None:
        if any(not 0 < len(text) <= 256 for text in stop or ()):
            raise ValueError("a stop text has 1 to 256 characters")
        return stop

    @field_validator("logit_bias")
    @classmethod
    def _bias(cls, bias: dict[int, float] | None) -> dict[int, float] | None:
        if any(not -100 <= value <= 100 for value in (bias or {}).values()):
            raise ValueError("a bias is a number from -100 to 100")
        return bias

    @field_validator("top_logprobs")
    @classmethod
    def _top_logprobs(cls, top: int | None, info: ValidationInfo) -> int | None:
        if top and not info.data.get("logprobs"):
            raise ValueError("needs logprobs: true")
        return top

    @property
    def best_logprobs(self) -> int | None:
        """How many most likely tokens to tell of at each position; None for no log probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def tokens(self) -> int | None:
        """The requested length of the answer, under either of its names."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def counts_along(self) -> bool:
        """Whether each event has the token counts so far."""
        return self.includes_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)


MARKS = (b"[", b"{", b",")
PLACE = re.compile(r"line (\d+) column (\d+)")
"""In the parser's messages, of which nothing else is repeated."""


def holds_more(body: bytes, most: int) -> bool:
    """Whether unparsed JSON has more than `most` values: objects, lists and their elements.

    Commas and brackets in strings do not count. It takes at most 0.1 s for 20 MB, and two copies of them.
    """
    if sum(map(body.count, MARKS)) <= most:  # including those in strings: true for nearly every request
        return False
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # now every quote begins or ends a string
    if bare.count(b'"') > 4 * (most + 1):  # a value has at most two strings, its key and itself
        return True
    outside = b"".join(bare.split(b'"')[::2])
    return sum(map(outside.count, MARKS)) > most


def read_request(body: bytes, served: tuple[str, ...], limits: Limits = LIMITS) -> ChatRequest:
    """The request in `body`, for one of the models named in `served`; its messages are not checked.

    Raises:
        Refusal: not JSON, a field that breaks a rule, a model that is not served, an unsupported field.
    """
    if holds_more(body, limits.max_values):  # parsed, 20 MB of empty lists would be 700 MB
        raise Refusal(f"body: a request may have {limits.max_values} JSON values; this one has more", code="too_many")
    try:
        raw = from_json(body, allow_inf_nan=False)
    except ValueError as e:
        at = PLACE.search(str(e))
        where = f", from line {at[1]}, column {at[2]} on" if at else ""
        raise Refusal(f"body: not JSON in UTF-8{where}", code="json_invalid") from None
    if not isinstance(raw, dict):
        raise Refusal("body: expected a JSON object", code="json_invalid")
    try:
        request = ChatRequest.model_validate(raw)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        # After the field's name come the types that were tried, and the client's own keys.
        param = ".".join(str(p) for p in first["loc"][: 1 if first["loc"][0] != "stream_options" else 2])
        kind = "invalid_type" if first["type"].endswith(("_type", "_parsing")) else "invalid_value"
        raise Refusal(f"{param}: {broken_rule(first)}", code=kind, param=param) from None
    if request.model is not None and request.model not in served:
        raise Refusal(
            f"model {request.model[:80]!r} is not served here; served: {', '.join(served)}; see GET /v1/models",
            status=404,
            code="model_not_found",
            param="model",
        )
    _refuse_unsupported(request)
    if (request.n or 1) > limits.max_answers:
        raise Refusal(f"n is {request.n}; a request may have {limits.max_answers} answers", code="too_many", param="n")
    return request


def _refuse_unsupported(request: ChatRequest) -> None:
    sent = {key: value for key, value in (request.model_extra or {}).items() if value is not None}
    for key, value in sent.items():
        if key in IGNORED or (key in NEUTRAL and value in NEUTRAL[key]):
            continue
        if sent.get({"tools": "tool_choice", "functions": "function_call"}.get(key, "")) == "none":
            continue
        if key not in NEUTRAL:
            known = "see docs/serving.md for what is read"
            raise Refusal(f"{key[:80]}: unknown field; {known}", code="unknown_parameter", param=key)
        fine = " or ".join(repr(each) for each in NEUTRAL[key])
        instead = f"send {fine} or leave it out" if fine else "leave it out"
        raise Refusal(f"{key}: not supported; {instead}", code="unsupported", param=key)
