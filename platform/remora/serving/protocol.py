"""OpenAI's chat completions, the part that is served: requests, responses, and refusals in their error shape.

Clients send many fields that this endpoint has no use for; they are ignored, as other servers do. `n` above 1 and
`stream` are refused: the client would wait for something else than what comes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from remora.errors import ServingError

TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    413: "RequestTooLargeError",
    500: "InternalServerError",
}


class Refusal(ServingError):
    """A request that is not answered: an HTTP status, one line for people, a code for programs."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.status, self.code, self.param = status, code, param

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, TYPES[400])
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    url: str


class ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: list[Part] = Field(min_length=1)

    @field_validator("content", mode="before")
    @classmethod
    def _text(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


class ChatRequest(BaseModel):
    """Body of POST /v1/chat/completions. A null is the same as a field that was not sent."""

    messages: list[Message] = Field(min_length=1)
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int | None = None
    stream: bool | None = None

    @property
    def tokens(self) -> int | None:
        """Length of the answer that the client asked for, under either of its names."""
        return self.max_completion_tokens or self.max_tokens


def read_request(body: bytes, served: tuple[str, ...]) -> ChatRequest:
    """The request in `body`, for one of the models named in `served`.

    Raises:
        Refusal: not JSON, a field that breaks a rule, a model that is not served, something that is not supported.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False)[0]
        param = ".".join(str(p) for p in first["loc"])
        raise Refusal(f"{param or 'body'}: {first['msg']}", code=first["type"], param=param or None) from None
    if request.model is not None and request.model not in served:
        raise Refusal(
            f"model {request.model[:80]!r} is not served here; served: {', '.join(served)}; see GET /v1/models",
            status=404,
            code="model_not_found",
            param="model",
        )
    if request.stream:
        raise Refusal("stream: not supported; send stream=false", code="unsupported", param="stream")
    if request.n not in (None, 1):
        raise Refusal(f"n is {request.n}: not supported; only n=1 is", code="unsupported", param="n")
    if request.messages[-1].role != "user":
        raise Refusal("messages: the last one must have the role 'user'", code="invalid_conversation", param="messages")
    return request


class ResponseMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: Literal[0] = 0
    message: ResponseMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    """Registered name and version that answered: `remora@3`."""
    choices: list[Choice]
    usage: Usage


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["remora"] = "remora"
    metadata: dict[str, Any]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
