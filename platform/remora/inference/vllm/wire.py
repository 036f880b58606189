"""What the two processes say to each other: frames of JSON, a prompt's embeddings as bytes behind it.

The worker imports this file under vLLM's Python, so it needs the standard library alone.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import NotRequired, TypedDict

HEAD = struct.Struct("!IQ")
"""Bytes of the JSON, bytes behind it."""


class WorkerOptions(TypedDict):
    """How a worker runs its model."""

    model: str
    """The language model's folder."""
    dtype: str
    max_length: int
    """Tokens of a prompt and its answer."""
    rows: int
    """Requests that decode together at most."""
    chunk: int
    """Tokens in a step, those of prompts included."""
    cache_bytes: int
    near: float
    """As `choose` takes it; tokens closer than that are told as ties. 0: none are."""


class Asked(TypedDict):
    """A request to the worker; the prompt's embeddings [tokens, hidden] follow as bytes."""

    number: int
    shape: list[int]
    max_new_tokens: int
    """Beside those of `said`."""
    stop_id: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    """The answer's (`Generation.seed`)."""
    frequency_penalty: float
    presence_penalty: float
    logit_bias: list[tuple[int, float]]
    top_logprobs: int | None
    said: list[int]
    """Tokens that the answer has already; they are among the prompt's embeddings."""


class ToWorker(TypedDict):
    """One of these."""

    add: NotRequired[Asked]
    cancel: NotRequired[list[int]]


class ToldToken(TypedDict):
    """A token of a request."""

    number: int
    token: int
    tie: bool
    """Too close to another to be told."""
    cached: int
    """Tokens of the prompt whose keys and values were there."""
    logprob: float | None
    best: list[tuple[int, float]]


class FromWorker(TypedDict):
    """One of these."""

    ready: NotRequired[str]
    """vLLM's version."""
    failed: NotRequired[str]
    """Why there will be no model, in one line."""
    step: NotRequired[list[ToldToken]]
    """What a step said."""
    refused: NotRequired[tuple[int, str]]
    """A request that vLLM does not take, and why."""


def send(to: socket.socket, said: ToWorker | FromWorker | WorkerOptions, behind: bytes = b"") -> None:
    """Send one frame."""
    text = json.dumps(said).encode()
    to.sendall(HEAD.pack(len(text), len(behind)) + text)
    if behind:
        to.sendall(behind)


def receive(of: socket.socket) -> tuple[str, bytearray] | None:
    """The next frame's JSON and the bytes behind it; None if the other end is gone."""
    head = _exactly(of, HEAD.size)
    if head is None:
        return None
    length, more = HEAD.unpack(head)
    text = _exactly(of, length)
    behind = _exactly(of, more)
    return None if text is None or behind is None else (text.decode(), behind)


def _exactly(of: socket.socket, count: int) -> bytearray | None:
    found = bytearray(count)
    view, have = memoryview(found), 0
    while have < count:
        try:
            got = of.recv_into(view[have:])
        except ConnectionError:
            return None
        if not got:
            return None
        have += got
    return found
