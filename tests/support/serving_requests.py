"""Random request bodies: valid ones, and ones with wrong fields, shapes, values or bytes."""

from __future__ import annotations

import base64
import io
import json
import random
from typing import Any

from PIL import Image

from remora.serving.openai_api import IGNORED, NEUTRAL

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, 1.0, 2**31, 2**63, -(2**70), 1e308, "", "x", "0", "1.5", "true", "null",
    "é\u2028\x00", "\ud800", "x" * 5000, "<image>", "</s>", "text", [], [[]], [None], ["user"], {}, {"": {}},
    {"a": [1, {"b": None}]},
)  # fmt: skip
FIELDS = (
    "messages", "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "stop", "n",
    "frequency_penalty", "presence_penalty", "logit_bias", "stream", "stream_options", *NEUTRAL, *sorted(IGNORED),
)  # fmt: skip
SOUND: dict[str, tuple[Any, ...]] = {
    "model": ("remora", "share-Fake", None),
    "max_tokens": (1, 16, 4096),
    "temperature": (0, 0.7, 2),
    "top_p": (0, 0.5, 1),
    "top_k": (-1, 0, 40),
    "seed": (0, -5, 2**40),
    "stop": ("a", ["b", "\n"], None),
    "n": (1, 2),
    "frequency_penalty": (-2, 0.5),
    "presence_penalty": (2, 0.0),
    "logit_bias": ({"5": 1}, {}),
    "stream": (True, False),
    "stream_options": ({"include_usage": True}, {"include_usage": False, "include_obfuscation": False}),
    "user": ("me",),
}
ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def _picture(draw: random.Random) -> str:
    size = draw.choice([(1, 1), (4, 4), (2, 300), (30, 20)])
    out = io.BytesIO()
    Image.new(draw.choice(["RGB", "L", "RGBA", "P"]), size).save(out, "PNG")
    data = bytearray(out.getvalue())
    if draw.random() < 0.4:
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
    if draw.random() < 0.2:
        del data[draw.randrange(len(data)) :]
    text = base64.b64encode(data).decode()
    if draw.random() < 0.2:
        text = draw.choice(
            [text[:-1], text.replace("+", "-"), text[:20] + "\n" + text[20:], text + "!", "%" + text, ""]
        )
    heads = ["data:image/png;base64,"] * 8
    heads += [
        "data:,",
        "data:text/html;base64,",
        "http://127.0.0.1/",
        "file:///",
        "",
        "data:;base64,",
        "DATA:IMAGE/X;BASE64, ",
    ]
    return draw.choice(heads) + text


def _part(draw: random.Random) -> Any:
    url = _picture(draw)
    return draw.choice(
        [
            "words",
            {"type": "text", "text": draw.choice(["what?", "", "ü", "too long"])},
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "image_url", "image_url": {"url": url, "detail": draw.choice(ODD)}},
            {"type": "image_url", "image_url": url},
            {"type": "input_image", "image_url": url},
            {"type": draw.choice(ODD), "text": draw.choice(ODD), "image_url": draw.choice(ODD)},
            draw.choice(ODD),
        ]
    )


def _message(draw: random.Random) -> Any:
    content = draw.choice(["hi", "what?", [_part(draw) for _ in range(draw.randint(0, 4))], draw.choice(ODD)])
    message = {"role": draw.choice(ROLES), "content": content}
    if draw.random() < 0.1:
        message[draw.choice(["role", "content", "name", "tool_calls", "refusal", "tool_call_id"])] = draw.choice(ODD)
    if draw.random() < 0.03:
        message.pop(draw.choice(list(message)))
    return draw.choice(ODD) if draw.random() < 0.02 else message


def request(draw: random.Random) -> bytes:
    """One body; about half of them are sound."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    if draw.random() < 0.6:
        body["messages"] = [_message(draw) for _ in range(draw.choice([0, 1, 1, 2, 3, 8]))]
        if draw.random() < 0.5:
            body["messages"].append({"role": "user", "content": [_part(draw)]})
    for field in draw.sample(list(SOUND), draw.randint(0, 4)):
        body[field] = draw.choice(SOUND[field])
    if draw.random() < 0.3:
        body[draw.choice(FIELDS)] = draw.choice(ODD)
    if draw.random() < 0.05:
        body["x" * draw.choice([1, 100, 10_000])] = draw.choice(ODD)
    sent = json.dumps(body, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    if draw.random() < 0.1:
        torn = bytearray(sent)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(torn))
            torn[at : at + draw.randint(0, 2)] = draw.choice(
                [b"", b"\xff", b"{", b"]", b'"', b"NaN", b"\x00", b"[" * 3000]
            )
        sent = bytes(torn)
    return sent[: draw.randrange(len(sent))] if draw.random() < 0.02 else sent
