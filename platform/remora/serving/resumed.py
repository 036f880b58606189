"""A stream of events that goes on behind a dead ingress replica: what its client has, and what another replica's answer
to the same request adds to it.

An answer follows from its request alone, with the seed that the front gives to requests without one (front.SEED). So
another replica's stream has the same text, in pieces of its own: what the client has is counted, and the rest is sent.
What was sent is parsed only when a replica has died. No Ray here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass

from starlette.types import Message, Send

from remora.serving.openai_api import Refusal

END = b"\n\n"
"""Of an event."""
KEPT = 2**20
"""Bytes of a stream that are kept; a longer one is not gone on with."""
SAME = ("id", "created")
"""What all events of a response have in common."""


class OtherAnswer(Exception):
    """The stream is none of the answer that was begun: another version answers, for example."""


@dataclass
class _Answer:
    """What is known of one answer of a request."""

    text: str = ""
    logprobs: int = 0
    begun: bool = False
    ended: bool = False


class ClientStream:
    """A client's stream, in which several replicas may have a part."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.begun = False
        self._sent: bytearray | None = bytearray()
        self._rest: Rest | None = None

    async def start(self, message: Message) -> None:
        """A replica's response begins; of a second one the client sees no head."""
        if not self.begun:
            self.begun = True
            return await self.send(message)
        self._rest = Rest(bytes(self._sent or b""))

    async def pass_on(self, message: Message) -> None:
        """Send a part of the response, as far as it is new.

        Raises:
            OtherAnswer: it does not go on with what was sent.
        """
        data = message.get("body", b"")
        data = data if self._rest is None else self._rest.of(data)
        if self._sent is not None:
            self._sent += data
            if len(self._sent) > KEPT:
                self._sent = None
        more = message.get("more_body", False)
        if data or not more:
            await self.send({"type": "http.response.body", "body": data, "more_body": more})

    @property
    def resumable(self) -> bool:
        return self._sent is not None and (not self._sent or self._sent.endswith(END))

    @property
    def over(self) -> bool:
        """Whether nothing was to come but the response's end."""
        last = (self._sent or b"").removesuffix(END).rpartition(END)[2]
        return last == b"data: [DONE]" or last.startswith(b'data: {"error"')

    async def end(self) -> None:
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, refusal: Refusal) -> None:
        """End the stream with an error."""
        event = b"data: " + json.dumps(refusal.body()).encode() + END
        await self.send({"type": "http.response.body", "body": event, "more_body": False})


class Rest:
    """Of another replica's stream of the same response, what is not in `sent`."""

    def __init__(self, sent: bytes) -> None:
        self._head: dict[str, object] = {}
        self._had, self._came = defaultdict[int, _Answer](_Answer), defaultdict[int, _Answer](_Answer)
        self._counted = False
        self._begun = b""
        for body in _bodies(sent):
            self._head = self._head or body
            index, delta, logprobs, end = _parts(body)
            if index is None:
                self._counted = True
                continue
            had = self._had[index]
            had.text += delta
            had.logprobs += len(logprobs)
            had.begun, had.ended = True, had.ended or end is not None

    def of(self, data: bytes) -> bytes:
        """The events that the client needs.

        Raises:
            OtherAnswer: they do not go on with what was sent.
        """
        *whole, self._begun = (self._begun + data).split(END)
        return b"".join(new + END for event in whole if (new := self._new(event)))

    def _new(self, event: bytes) -> bytes:
        for body in _bodies(event):
            if "error" in body:
                return event
            fresh = self._rest_of(body)
            return b"" if fresh is None else b"data: " + json.dumps(fresh).encode()
        return event  # [DONE], or a comment

    def _rest_of(self, body: dict[str, object]) -> dict[str, object] | None:
        if self._head and body.get("system_fingerprint") != self._head.get("system_fingerprint"):
            raise OtherAnswer("another version answers")
        same = {name: self._head[name] for name in SAME if name in self._head}
        index, text, logprobs, end = _parts(body)
        if index is None:
            return None if self._counted else {**body, **same}
        had, came = self._had[index], self._came[index]
        first, came.begun = not came.begun, True
        before = came.text
        came.text += text
        if not had.text.startswith(came.text) and not came.text.startswith(had.text):
            raise OtherAnswer("its text is another")
        if end is not None and len(came.text) < len(had.text):
            raise OtherAnswer("its text is shorter")
        new_text = came.text[max(len(before), len(had.text)) :]
        new_logprobs = logprobs[max(0, had.logprobs - came.logprobs) :]
        came.logprobs += len(logprobs)
        new_end = None if had.ended else end
        if not new_text and not new_logprobs and new_end is None and (had.begun or not first):
            return None
        delta: dict[str, str] = {"role": "assistant", "content": ""} if first and not had.begun else {}
        if new_text or new_logprobs:
            delta["content"] = new_text
        told = {"content": new_logprobs, "refusal": None} if new_logprobs else None
        choice = {"index": index, "delta": delta, "finish_reason": new_end, "logprobs": told}
        return {**body, **same, "choices": [choice]}


def _bodies(events: bytes) -> list[dict[str, object]]:
    found = []
    for event in events.split(END):
        data = event.removeprefix(b"data:").strip()
        if event.startswith(b"data:") and data != b"[DONE]":
            body = json.loads(data)
            assert isinstance(body, dict), "an ingress replica's event"
            found.append(body)
    return found


def _parts(body: dict[str, object]) -> tuple[int | None, str, list[object], str | None]:
    """An event's answer by its index, the text and the log probabilities that it adds, and how it ends. Without an
    index: it counts the tokens of all answers."""
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return None, "", [], None
    delta, told = choice.get("delta") or {}, choice.get("logprobs") or {}
    return choice["index"], delta.get("content") or "", told.get("content") or [], choice.get("finish_reason")
