"""The state of one request: its tokens so far, its next token at batch size 1, and when it ends."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from remora.errors import DataError, TooLong
from remora.inference.decoding import WholeBatch
from remora.inference.requests import Answer, Prompt, Request
from remora.inference.sampling import choose

if TYPE_CHECKING:
    from remora.inference.answerer import Answerer


class Generation:
    """One request and its answer so far.

    Raises:
        DataError: an invalid conversation, or a request for no token.
        TooLong: the prompt and its answer may exceed the context.
    """

    def __init__(self, answerer: Answerer, request: Request, number: int = 0) -> None:
        asked = request.conversation
        self.prompt = asked if isinstance(asked, Prompt) else answerer.prompt(asked)
        if request.max_new_tokens < 1:
            raise DataError(f"max_new_tokens is {request.max_new_tokens}; an answer has at least 1 token")
        if len(self.prompt.ids) + request.max_new_tokens > answerer.max_length:
            raise TooLong(len(self.prompt.ids), request.max_new_tokens, answerer.max_length)
        if len(request.said) >= request.max_new_tokens:
            raise DataError(
                f"an answer of {request.max_new_tokens} tokens cannot go on behind {len(request.said)}; ask for more"
            )
        self.request, self.number = request, number
        self.said: list[int] = list(request.said)
        self.known = replace(self.prompt, ids=(*self.prompt.ids, *request.said)) if request.said else self.prompt
        """What is read before the next token: the prompt, and the tokens that were said before."""
        self.cached = 0
        """Tokens of the prompt whose keys and values were copied."""
        self.seed = self._seed() if request.temperature else 0
        self._answerer = answerer
        self.stop_id = -1 if request.ignore_eos else answerer.stop_id
        """The token that ends the answer; -1: none."""
        self._alone: WholeBatch | None = None
        self._heard = 0  # tokens of the answer that were read at batch size 1
        # Each token except special ones is at least one byte of UTF-8.
        self._stop_tokens = 8 + max((len(t.encode("utf-8", "surrogatepass")) for t in request.stop), default=0)

    @property
    def need(self) -> int:
        """Tokens that a cache needs room for."""
        return len(self.prompt.ids) + self.request.max_new_tokens

    def exact(self) -> int:
        """The next token by definition: batch size 1, pictures encoded one at a time, the prompt read whole.

        It reads the tokens since its last call, so an answer costs at most one decoding at batch size 1, however many
        near ties it has.
        """
        while (token := self.listen()) is None:
            pass
        return token

    @torch.inference_mode()
    def listen(self) -> int | None:
        """A part of `exact`: read the prompt, or one token of the answer; returns the next token when all are read."""
        answerer = self._answerer
        if self._alone is None:
            shown = {picture.digest: answerer.embeddings([picture])[0] for picture in self.prompt.pictures}
            self._alone = WholeBatch(answerer.model.llm, [self.prompt], shown)
        elif self._heard < len(self.said):
            self._alone.step([self.said[self._heard]])
            self._heard += 1
        if self._heard < len(self.said):
            return None
        (token,), _ = choose(self._alone.logits, [self], near=0.0)
        return token

    @property
    def alone_logits(self) -> Tensor:
        """The logits [V] by which `listen` decided last."""
        assert self._alone is not None
        return self._alone.logits[0]

    def say(self, token: int) -> Answer | None:
        """Add the next token; returns the whole answer if it was the last."""
        self.said.append(token)
        stopped = token == self.stop_id
        spoken = self.said[:-1] if stopped else self.said
        text = self._before_stop(spoken)
        if text is not None:
            stopped = True
        elif stopped or len(self.said) == self.request.max_new_tokens:
            text = self._answerer.text(spoken)
        else:
            return None
        return Answer(text.strip(), len(self.prompt.ids), len(self.said), "stop" if stopped else "length")

    def _before_stop(self, spoken: Sequence[int]) -> str | None:
        """The answer's text before its first stop text; None if it has none. Called after every token, so it decodes
        the last few first. The space that most tokenizers put before an answer is not part of it."""
        stop, text = self.request.stop, self._answerer.text
        if not stop or not any(each in text(spoken[-self._stop_tokens :]) for each in stop):
            return None
        whole = text(spoken).lstrip()
        places = [at for at in (whole.find(each) for each in stop) if at >= 0]
        return whole[: min(places)] if places else None

    def _seed(self) -> int:
        """The seed of a sampled answer: from the request's seed, the conversation's tokens and its pictures."""
        content = hashlib.blake2b(repr((self.request.seed, self.prompt.ids)).encode(), digest_size=8)
        for digest in self.prompt.shown:
            content.update(digest)
        return int.from_bytes(content.digest())
