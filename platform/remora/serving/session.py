"""A conversation with an endpoint: what was said, and the next answer as it comes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from remora.errors import ServingError
from remora.serving.client import authorization, picture_part, refused, route

PATIENCE_S = 120.0
"""Seconds without a byte after which an endpoint is given up."""


@dataclass(frozen=True)
class Pace:
    """How an answer came."""

    version: str | None = None
    """Which model answered: `remora@3`."""
    first_token: float | None = None
    """Seconds from the question to the first piece of the answer."""
    tokens: int = 0
    per_second: float | None = None
    """Tokens a second, from the first one on."""
    end: str | None = None
    """Why it ended: stop, length. None if it was stopped here."""

    def __str__(self) -> str:
        """`remora@3 · first token 28 ms · 41.0 tokens/s`; parts that are not known are left out."""
        parts = (
            self.version,
            None if self.first_token is None else f"first token {1000 * self.first_token:.0f} ms",
            None if self.per_second is None else f"{self.per_second:.1f} tokens/s",
            {"length": "cut at its length limit", None: "stopped"}.get(self.end),
        )
        return " · ".join(part for part in parts if part)


@dataclass
class ChatSession:
    """A conversation with the endpoint at `url`, with or without /v1."""

    url: str
    settings: dict[str, object] = field(default_factory=dict)
    """Further fields of each request: model, max_tokens, temperature."""
    system: str | None = None
    key: str | None = None
    """Default: that of the environment (REMORA_KEY)."""
    clock: Callable[[], float] = time.perf_counter
    messages: list[dict[str, object]] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    """Of the last answer."""

    def ask(self, question: str, pictures: Sequence[Path] = ()) -> Generator[str, None, None]:
        """The answer, piece by piece. Closing the iterator stops it; what was said until then stays in the
        conversation. A question that gets no answer does not.

        Raises:
            DataError: a picture cannot be read.
            ServingError: the endpoint cannot be reached, refused, or broke off.
        """
        text: dict[str, object] = {"type": "text", "text": question}
        content: object = [*map(picture_part, pictures), text] if pictures else question
        self.messages.append({"role": "user", "content": content})
        said: list[str] = []
        try:
            for piece in self._stream():
                said.append(piece)
                yield piece
        finally:
            if said:
                self.messages.append({"role": "assistant", "content": "".join(said)})
            else:
                self.messages.pop()

    def clear(self) -> None:
        """Begin again."""
        self.messages.clear()

    def _stream(self) -> Iterator[str]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {**self.settings, "messages": [*system, *self.messages], "stream": True}
        body["stream_options"] = {"include_usage": True}
        began, times, tokens, version, end = self.clock(), list[float](), 0, None, None
        self.pace = Pace()
        try:
            for chunk in self._chunks(body):
                version = _text(chunk.get("system_fingerprint")) or version
                usage, choices = chunk.get("usage"), chunk.get("choices")
                if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
                    tokens = usage["completion_tokens"]
                choice = choices[0] if isinstance(choices, list) and choices else {}
                if not isinstance(choice, dict):
                    raise self._other()
                end = _text(choice.get("finish_reason")) or end
                delta = choice.get("delta")
                piece = _text(delta.get("content")) if isinstance(delta, dict) else None
                if piece or (times and choice):  # the end is a token, too
                    times.append(self.clock())
                if piece:
                    yield piece
            if end is None:
                raise ServingError(f"{self.url}: the answer was cut off: the connection ended; ask again")
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            what = "the answer was cut off" if times else "no answer"
            raise ServingError(f"{self.url}: {what} ({type(e).__name__}: {e}); next: remora serve") from e
        finally:
            count, took = tokens or len(times), times[-1] - times[0] if times else 0.0
            rate = (count - 1) / took if took > 0 and count > 1 else None
            self.pace = Pace(version, times[0] - began if times else None, count, rate, end)

    def _chunks(self, body: dict[str, object]) -> Iterator[dict[str, object]]:
        """The events of the response to a request."""
        # trust_env: otherwise a proxy from the environment would get requests to 127.0.0.1
        client = httpx.Client(timeout=PATIENCE_S, trust_env=False)
        with client, client.stream("POST", route(self.url), json=body, headers=authorization(self.key)) as response:
            if not response.is_success:
                response.read()
                raise refused(self.url, response)
            for line in response.iter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or not data:
                    continue
                if data == "[DONE]":
                    return
                try:
                    chunk = json.loads(data)
                except ValueError:
                    raise self._other() from None
                if not isinstance(chunk, dict):
                    raise self._other()
                if isinstance(error := chunk.get("error"), dict):
                    raise ServingError(f"{self.url}: {error.get('message')}")
                yield chunk

    def _other(self) -> ServingError:
        return ServingError(f"{self.url}: the answer is not a stream of chat completions; is this the right URL?")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
