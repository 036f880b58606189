"""The engine of our own: every part of the model runs in this process."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from remora.serving.engines.threaded import ThreadedEngine

if TYPE_CHECKING:
    from remora.inference import Answerer

ROWS = 64
"""Requests that decode together at most."""
CHUNK = 128
"""Tokens of prompts in a step: how long those who wait for a next token wait at most."""


class BuiltinEngine(ThreadedEngine):
    """A `ServingEngine` with an AnswerEngine."""

    @classmethod
    def of(cls, answerer: Answerer, cache_bytes: int, chunk: int = CHUNK) -> BuiltinEngine:
        """For a model in memory, with a key-value cache of at most so many bytes. A step reads at most `chunk` tokens
        of prompts."""
        return cls(answerer, partial(answerer.engine, cache_bytes=cache_bytes, chunk=chunk, pictures=1), ROWS)
