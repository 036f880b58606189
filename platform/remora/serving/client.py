"""Ask an endpoint about a picture, from Python or by a shell command."""

from __future__ import annotations

import base64
import json
import mimetypes
import os
import shlex
from pathlib import Path

import httpx

from remora.errors import DataError, ServingError

KEY = "REMORA_KEY"
"""Environment variable with the key that clients send."""


def ask(
    url: str,
    image_path: Path | str,
    question: str,
    *,
    max_tokens: int = 64,
    timeout: float = 60,
    model: str = "remora",
    key: str | None = None,
) -> str:
    """Ask the endpoint at `url` (http://127.0.0.1:8000, with or without /v1) a `question` about a picture.

    Its key is `key`, or that of the environment (REMORA_KEY).

    Raises:
        DataError: the picture cannot be read.
        ServingError: the endpoint cannot be reached, or refused; one line with its reason.
    """
    path = Path(image_path)
    encoded = _encoded(path)
    try:
        # trust_env: otherwise a proxy from the environment would get requests to 127.0.0.1
        response = httpx.post(
            route(url),
            json=_body(path, encoded, question, max_tokens, model),
            headers=authorization(key),
            timeout=timeout,
            trust_env=False,
        )
    except httpx.HTTPError as e:
        raise ServingError(f"{url}: no answer ({type(e).__name__}: {e}); next: remora serve") from e
    if response.is_success:
        try:
            return str(response.json()["choices"][0]["message"]["content"])
        except (ValueError, LookupError, TypeError):
            raise ServingError(f"{url}: the answer is not one of chat completions; is this the right URL?") from None
    raise refused(url, response)


def refused(url: str, response: httpx.Response) -> ServingError:
    """An endpoint's refusal as an error; the response has been read."""
    try:
        reason = str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        reason = " ".join(response.text[:200].split())
    way = f"; next: export {KEY}=KEY" if response.status_code == 401 else ""
    return ServingError(f"{url}: status {response.status_code}: {reason}{way}")


def picture_part(path: Path) -> dict[str, object]:
    """A picture as a part of a message.

    Raises:
        DataError: it cannot be read.
    """
    return _part(path, _encoded(path))


def _encoded(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        why = e.strerror if isinstance(e, OSError) else "no file has such a name"
        raise DataError(f"{path}: cannot read: {why}; give the path of a picture") from None


def authorization(key: str | None = None) -> dict[str, str]:
    """The header with a key, or with the environment's (REMORA_KEY); no header if there is none.

    Raises:
        ServingError: the key has characters that no header has.
    """
    key = key or os.environ.get(KEY)
    if key and not (key.isascii() and key.isprintable()):
        raise ServingError(f"a key has printable ASCII characters only; look at {KEY}, or at --key")
    return {"Authorization": f"Bearer {key}"} if key else {}


def curl_command(url: str, image_path: Path | str, question: str, model: str = "remora", keyed: bool = False) -> str:
    """The same question as a command for a shell; it reads the picture when it runs, and the key (`keyed`) from the
    environment."""
    path = Path(image_path)
    marker = "PICTURE-GOES-HERE"
    body = json.dumps(_body(path, marker, question, 64, model), ensure_ascii=False)
    for character in "\\$`":  # a shell expands these in a here-document
        body = body.replace(character, "\\" + character)
    body = body.replace(marker, f"$(base64 < {shlex.quote(str(path))} | tr -d '\\n')", 1)
    # By standard input: as an argument, a picture above 96 KiB would exceed Linux's limit for one argument.
    key = f' -H "Authorization: Bearer ${KEY}"' if keyed else ""
    return f"curl -sS {shlex.quote(route(url))} -H 'Content-Type: application/json'{key} -d @- <<END\n{body}\nEND"


def route(url: str) -> str:
    return f"{url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"


def _part(path: Path, encoded: str) -> dict[str, object]:
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encoded}"}}


def _body(path: Path, encoded: str, question: str, max_tokens: int, model: str) -> dict[str, object]:
    content = [_part(path, encoded), {"type": "text", "text": question}]
    return {"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": content}]}
