"""A judge: a chat model behind any endpoint with OpenAI's chat completions, asked each question once.

The endpoint is OPENAI_BASE_URL, else OPENAI_API_BASE, else OpenAI's; its key is OPENAI_API_KEY, which your own endpoint
may not need. The model is `--judge-model`, else REMORA_JUDGE_MODEL, else that of the benchmark's paper. Replies are
stored on disk by what was asked, so that an interrupted scoring asks only for the rest, and scoring again gives the
same figures.
"""

from __future__ import annotations

import functools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import yaml

from remora.errors import DataError
from remora.evaluation.answers import parse
from remora.files import digest, disk_errors, write_json

if TYPE_CHECKING:
    import ssl

    import httpx  # 0.2 s, and most scores need no judge

OPENAI = "https://api.openai.com/v1"
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each retry after a temporary failure."""
LONGEST_WAIT = 600.0
"""Maximum of Retry-After that is obeyed, in seconds."""
PARALLEL = 4
"""Concurrent requests."""

Thing = TypeVar("Thing")
Result = TypeVar("Result")


class Judge(Protocol):
    """Replies to a judge's prompt."""

    model: str

    def ask(self, messages: list[dict[str, str]], *, temperature: float, max_tokens: int) -> str:
        """The reply. The endpoint gets the same question once; later replies come from the cache.

        Raises:
            DataError: the endpoint cannot be reached, refuses, or gives an unreadable reply.
        """


def judge_from_environment(cache: Path, model: str | None, default: str) -> Judge:
    """The judge that the environment names. Nothing is checked before it is used: graded answers need none."""
    own = os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE")
    chosen = model or os.environ.get("REMORA_JUDGE_MODEL") or default
    return JudgeEndpoint(chosen, own or OPENAI, os.environ.get("OPENAI_API_KEY", ""), cache)


@functools.cache
def judge_texts(module: str) -> dict[str, str]:
    """A benchmark's prompts to its judge, from the judge.yaml beside its module."""
    found: dict[str, str] = yaml.safe_load(Path(module).with_name("judge.yaml").read_text(encoding="utf-8"))
    return found


def in_order(work: Callable[[Thing], Result], things: Sequence[Thing]) -> list[Result]:
    """work(thing) of each, a few at a time; the first failure stops those that have not begun."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        running = [pool.submit(work, thing) for thing in things]
        try:
            return [r.result() for r in running]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class JudgeEndpoint:
    """A judge by HTTP, with a folder of its replies."""

    def __init__(
        self, model: str, base_url: str, key: str, cache: Path, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.model = model
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self.key = key.strip()
        self.cache = cache
        self.sleep = sleep
        self._asking: dict[Path, threading.Lock] = {}

    def ask(self, messages: list[dict[str, str]], *, temperature: float, max_tokens: int) -> str:
        request = {
            "model": self.model,
            "messages": messages,
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        # The same name may mean another model at another endpoint.
        path = self.cache / f"{digest(request | {'url': self.url})}.json"
        # Of two threads with the same question the second waits: two replies at a temperature would be two scores.
        with self._asking.setdefault(path, threading.Lock()):
            reply = _kept(path)
            if reply is None:
                reply = self._request(request)
                with disk_errors(self.cache):
                    write_json(path, request | {"reply": reply})
            return reply

    def _request(self, request: Mapping[str, object]) -> str:
        if not self.key and self.url.startswith(OPENAI):
            raise DataError(
                "no judge: OPENAI_API_KEY is not set; set it, or OPENAI_BASE_URL to an endpoint of your own, or give "
                "answers that are graded already"
            )
        if not (self.key.isascii() and self.key.isprintable()):
            raise DataError("no judge: OPENAI_API_KEY holds characters that no key has; set it again")
        import httpx

        for wait in (*WAITS, None):
            asked_for = None
            try:
                response = self._post(request)
            except httpx.TransportError as e:
                problem = f"{type(e).__name__}: {e}"
            else:
                if response.is_success and (reply := _reply(response.text)) is not None:
                    return reply
                problem = f"status {response.status_code}: {_reason(response)}"
                if not (response.is_success or response.status_code in (408, 409, 429) or response.is_server_error):
                    raise DataError(self._failed(f"refuses ({problem})"))
                asked_for = _retry_after(response)
            if wait is not None:
                self.sleep(wait if asked_for is None else min(asked_for, LONGEST_WAIT))
        raise DataError(self._failed(f"fails ({problem})"))

    def _post(self, request: Mapping[str, object]) -> httpx.Response:
        import httpx

        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        # A connection per request: a reply takes seconds, and none goes stale. No proxy for this machine.
        try:
            return httpx.post(
                self.url,
                content=json.dumps(request).encode(),
                headers=headers,
                timeout=httpx.Timeout(300.0, connect=20.0),
                verify=_certificates(),
                trust_env=not re.match(r"https?://(localhost|127\.|\[::1\])", self.url),
            )
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as e:
            raise DataError(self._failed(f"cannot be asked ({e})")) from None

    def _failed(self, how: str) -> str:
        return (
            f"judge {self.model!r} at {self.url} {how}; see OPENAI_BASE_URL, OPENAI_API_KEY and --judge-model, then "
            "run the same command again: replies that came are kept"
        )


@functools.cache
def _certificates() -> ssl.SSLContext:
    """The certificates, read once: it takes as long as a short reply."""
    import httpx

    return httpx.create_ssl_context()


def _kept(path: Path) -> str | None:
    try:
        reply = json.loads(path.read_text())["reply"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return reply if isinstance(reply, str) else None


def _reply(text: str) -> str | None:
    """The model's reply; a refusal's `null` is an empty reply. None if the endpoint sent something else."""
    try:
        content = parse(text)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    return "" if content is None else content if isinstance(content, str) else None


def _reason(response: httpx.Response) -> str:
    """The endpoint's error message, on one line."""
    try:
        said = str(parse(response.text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        said = response.text
    return " ".join(said.split())[:200] or "nothing readable"


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds from Retry-After, which is a number or a date."""
    said = response.headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds == seconds else None
