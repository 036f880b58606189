"""A judge: a chat model behind any endpoint that speaks OpenAI's chat completions, asked once for each thing.

The endpoint is OPENAI_BASE_URL, else OPENAI_API_BASE, else OpenAI's; its key is OPENAI_API_KEY, which an endpoint of
one's own may do without. The model is `--judge-model`, else REMORA_JUDGE_MODEL, else the one that the benchmark's paper
had. Replies are kept on disk by what was asked, so that scoring which was interrupted asks only for the rest, and
scoring again gives the same figures.
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
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import yaml

from remora.errors import DataError
from remora.evaluation.answers import parse
from remora.files import digest, disk_errors, write_json

if TYPE_CHECKING:
    import ssl

    import httpx  # 0.2 s, and most scores need no judge

OPENAI = "https://api.openai.com/v1"
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each repetition of a request that failed for a reason that may pass."""
LONGEST_WAIT = 600.0
"""Seconds that Retry-After is obeyed for."""
PARALLEL = 4
"""Requests under way at once."""

Thing = TypeVar("Thing")
Result = TypeVar("Result")


class Judge(Protocol):
    """Whoever replies to a judge's prompt."""

    model: str

    def ask(self, messages: list[dict[str, str]], *, temperature: float, max_tokens: int) -> str:
        """The reply. The same question is asked of the endpoint once and then read from the cache.

        Raises:
            DataError: the endpoint cannot be reached, refuses, or replies with nothing readable.
        """


def judge_from_environment(cache: Path, model: str | None, default: str) -> Judge:
    """The judge that the environment names. Nothing is checked before it is asked: graded answers need none."""
    own = os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE")
    chosen = model or os.environ.get("REMORA_JUDGE_MODEL") or default
    return JudgeEndpoint(chosen, own or OPENAI, os.environ.get("OPENAI_API_KEY", ""), cache)


@functools.cache
def judge_texts(module: str) -> dict[str, str]:
    """What a benchmark tells its judge, from the judge.yaml beside its module."""
    found: dict[str, str] = yaml.safe_load(Path(module).with_name("judge.yaml").read_text(encoding="utf-8"))
    return found


def in_order(work: Callable[[Thing], Result], things: Sequence[Thing]) -> list[Result]:
    """work(thing) of each, a few at a time; the first failure stops what has not begun."""
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
        # One name may mean another model at another endpoint.
        path = self.cache / f"{digest(request | {'url': self.url})}.json"
        # Of two threads with one question the second waits: two replies at a temperature would be two scores.
        with self._asking.setdefault(path, threading.Lock()):
            reply = _kept(path)
            if reply is None:
                reply = self._request(request)
                with disk_errors(self.cache):
                    write_json(path, request | {"reply": reply})
            return reply

    def _request(self, request: Mapping[str, Any]) -> str:
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

    def _post(self, request: Mapping[str, Any]) -> httpx.Response:
        import httpx

        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        # A connection for each: a reply takes seconds, and none goes stale. A proxy is not asked for this machine.
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
    """Read once: it takes as long as a short reply."""
    import httpx

    return httpx.create_ssl_context()


def _kept(path: Path) -> str | None:
    try:
        reply = json.loads(path.read_text())["reply"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return reply if isinstance(reply, str) else None


def _reply(text: str) -> str | None:
    """What the model said; a refusal's `null` is an empty reply. None if the endpoint sent something else."""
    try:
        content = parse(text)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    return "" if content is None else content if isinstance(content, str) else None


def _reason(response: httpx.Response) -> str:
    """The endpoint's own words, on one line."""
    try:
        said = str(parse(response.text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        said = response.text
    return " ".join(said.split())[:200] or "nothing readable"


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that Retry-After asks for, which it says as a number or as a date."""
    said = response.headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds == seconds else None
