"""GET /openapi.json: what a request may hold and what comes back, for clients that are generated and for fuzzers.

It describes what the routes accept; they read requests by themselves (openai_api.py, messages.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from remora import __version__
from remora.serving.messages import SIDES
from remora.serving.openai_api import CHAT, ChatRequest

REF = "#/components/schemas/"
JSON = "application/json"
KEY = "key"

_URL = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"]},
    ]
}
_PART = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
            "required": ["type", "text"],
        },
        {
            "type": "object",
            "properties": {"type": {"const": "image_url"}, "image_url": _URL},
            "required": ["type", "image_url"],
        },
    ]
}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"enum": list(SIDES)},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}, {"type": "null"}]},
    },
    "required": ["role"],
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
        }
    },
    "required": ["error"],
}
_REFUSED = {
    "description": "Refused or failed, as OpenAI's errors",
    "content": {JSON: {"schema": {"$ref": f"{REF}Error"}}},
}
_ANSWER = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "choices": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        "usage": {"type": "object"},
    },
    "required": ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"],
}
_STREAM = {"schema": {"description": "server-sent events of chat.completion.chunk objects, then [DONE]"}}


def describe(app: FastAPI) -> None:
    """Add the route to `app`, which has all others."""
    described = document([route for route in app.routes if isinstance(route, APIRoute)])

    @app.get("/openapi.json", response_model=None)
    async def openapi() -> JSONResponse:
        """This description, for clients that are generated."""
        return JSONResponse(described)


def document(routes: Sequence[APIRoute]) -> dict[str, object]:
    """The description of some routes."""
    chat = ChatRequest.model_json_schema(ref_template=REF + "{model}")
    more = chat.pop("$defs", {})
    chat["properties"]["messages"] = {"type": "array", "minItems": 1, "items": _MESSAGE}
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        operation: dict[str, object] = {
            "summary": route.description,
            "responses": {"200": _answered(route.path), "default": _REFUSED},
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in route.param_convertors
            ],
        }
        if route.path == CHAT:
            schema = {"$ref": f"{REF}ChatRequest"}
            operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
        for method in sorted(route.methods or ()):
            paths.setdefault(route.path_format, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Remora", "version": __version__},
        "paths": paths,
        "security": [{KEY: []}],
        "components": {
            "schemas": {"Error": _ERROR, **more, "ChatRequest": chat},
            "securitySchemes": {KEY: {"type": "http", "scheme": "bearer"}},
        },
    }


def _answered(path: str) -> dict[str, object]:
    if path == CHAT:
        return {"description": "An answer", "content": {JSON: {"schema": _ANSWER}, "text/event-stream": _STREAM}}
    kinds = {"/metrics": "text/plain", "/": "text/html"}
    return {"description": "OK", "content": {kinds.get(path, JSON): {"schema": {}}}}
