"""What counts as ok: an answer, a refusal in one line of our own, under a storm a 429 or 503 with Retry-After."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal

from remora.serving.attack.wire import Came

Wanted = Literal["answered", "refused", "either"]

TELLS = re.compile(
    r"0x[0-9a-f]{6,}|Traceback|site-packages|File \"|\.py\b|/usr/|/home/|\b[A-Z]\w*(?:Error|Exception|Warning)\b"
    r"|Errno|BytesIO|object at|PIL\.|pydantic|cannot identify|truncated|Expecting|Extra data|Input should"
    r"|Max retries|getaddrinfo|urlopen|recursion|root:",
)
"""Of texts that libraries write: classes, paths, addresses of memory, and the words of Pillow, json and pydantic."""
KEYS = {"message", "type", "param", "code"}
LONGEST_ERROR = 2000
"""Bytes of an error; a longer one repeats what was sent."""
SHOWN = 100


@dataclass(frozen=True)
class Shot:
    """One thing sent, and what came back."""

    name: str
    bytes: int
    came: str
    problem: str | None = None


def problem(
    came: Came, wanted: Wanted = "either", sent: bytes = b"", *, storm: bool = False, parser: bool = False
) -> str | None:
    """What is wrong with an answer; None if nothing is.

    `storm`: 429 and 503 with Retry-After are fine. `parser`: it was no HTTP, so the connection may be closed or
    answered by the HTTP parser, which knows no JSON. What was sent may be repeated.
    """
    if b"root:x:0" in came.body:
        return "it has a file of the server"
    if came.status is None:
        return None if parser and came.why.startswith("closed") else f"no answer: {came.why}"
    if came.status in (429, 503):
        if "retry-after" not in came.headers:
            return f"status {came.status} without Retry-After"
        if not storm:
            return f"status {came.status} outside of a storm; attack with a key that has no limits: {_text(came)}"
        return None
    if came.status >= 500:
        return f"status {came.status}: {_text(came)}"
    if came.status < 400:
        return f"answered with {came.status}, not refused" if wanted == "refused" else None
    if wrong := _error(came, sent, parser):
        return wrong
    return f"refused with {came.status}: {_text(came)}" if wanted == "answered" else None


def _error(came: Came, sent: bytes, parser: bool) -> str | None:
    """What is wrong with a refusal's form."""
    if len(came.body) > LONGEST_ERROR:
        return f"an error of {len(came.body):,} bytes"
    try:
        body = json.loads(came.body)
        error = body["error"]
        message = str(error["message"])
        formed = set(error) == KEYS
    except (ValueError, LookupError, TypeError):
        if parser and not _foreign(came.body.decode("latin-1"), sent):
            return None
        return f"no OpenAI error object: {_text(came)}"
    if not formed:
        return f"an error with {', '.join(sorted(error))}"
    if "\n" in message:
        return f"an error of several lines: {_text(came)}"
    if found := _foreign(message, sent):
        return f"a library's text ({found!r}): {_text(came)}"
    return None


def _foreign(text: str, sent: bytes) -> str | None:
    """A library's words in a text, which were not in what was sent."""
    return next((tell[0] for tell in TELLS.finditer(text) if tell[0].encode() not in sent), None)


def _text(came: Came) -> str:
    text = " ".join(came.body.decode("utf-8", "replace").split())
    return ascii(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
