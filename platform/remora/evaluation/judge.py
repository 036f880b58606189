"""A judge: a chat model behind any endpoint that speaks OpenAI's chat completions, asked once for each thing."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Judge(Protocol):
    """Whoever replies to a judge's prompt."""

    model: str

    def ask(self, messages: list[dict[str, str]], *, temperature: float, max_tokens: int) -> str:
        """The reply. The same question is asked of the endpoint once and then read from the cache.

        Raises:
            DataError: the endpoint cannot be reached, refuses, or replies with nothing readable.
        """


def judge_from_environment(cache: Path | None = None, model: str | None = None) -> Judge:
    raise NotImplementedError
