"""Requests to a model and its answers. No torch here, so that commands and request threads load it fast."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from PIL import Image

from remora.token_ids import IMAGE


@dataclass(frozen=True, eq=False)
class FittedPicture:
    """An RGB picture at the size that the encoder needs, known by its content: equal pixels are one picture."""

    image: Image.Image

    @cached_property
    def digest(self) -> bytes:
        """Covers mode, size and pixels: the same bytes in another shape are another picture."""
        content = hashlib.blake2b(repr((self.image.mode, self.image.size)).encode(), digest_size=16)
        content.update(self.image.tobytes())
        return content.digest()


@dataclass(frozen=True)
class Message:
    """One message with its pictures (RGB). A `FittedPicture` was already shrunk by `Answerer.picture`."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Image.Image | FittedPicture, ...] = ()


@dataclass(frozen=True, eq=False)
class Prompt:
    """A conversation as the model reads it: ids with IMAGE where pictures go, and the pictures in reading order.

    Its head is the template's words before the first picture, its body ends with the last picture. Most prompts share
    their head, and all questions about a picture share a body, so each is read once (decoding.py).
    """

    ids: tuple[int, ...]
    pictures: tuple[FittedPicture, ...] = ()

    @cached_property
    def head(self) -> int:
        """Tokens before the first picture."""
        return self.ids.index(IMAGE) if self.pictures else 0

    @cached_property
    def body(self) -> int:
        """Tokens to the end of the last picture; for a prompt that ends with a picture, those of its head. The token
        that predicts the answer's first token is never shared."""
        end = len(self.ids) - self.ids[::-1].index(IMAGE) if self.pictures else 0
        return end if end < len(self.ids) else self.head

    def prefix(self, end: int) -> Hashable:
        """A key, equal for prompts with the same first `end` tokens (head or body)."""
        return self.ids[:end], self.shown if end > self.head else ()

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Where its tokens are that are pictures'."""
        return tuple(i for i, token in enumerate(self.ids) if token == IMAGE)

    @property
    def image_tokens(self) -> int:
        """Tokens that are pictures'."""
        return len(self.places)

    def pictures_in(self, start: int, count: int) -> range:
        """The numbers of its pictures with a token among `count` from `start` on."""
        first, last = bisect_left(self.places, start), bisect_left(self.places, start + count)
        each = len(self.places) // max(1, len(self.pictures))
        return range(first // each, -(-last // each)) if first < last else range(0)

    def picture_starts(self, number: int) -> int:
        """Where a picture's tokens begin."""
        return self.places[number * (len(self.places) // len(self.pictures))]

    @cached_property
    def shown(self) -> tuple[bytes, ...]:
        """The pictures' digests."""
        return tuple(picture.digest for picture in self.pictures)


@dataclass(frozen=True)
class Request:
    """A conversation to answer, with its own settings, by OpenAI's names (`top_k` is vLLM's).

    A token's score is its logit plus its bias minus the penalties for tokens already in the answer. Temperature 0 takes
    the best score. Above 0, a token is sampled from the softmax of score / temperature over the `top_k` best tokens, of
    these over the fewest whose probabilities add up to `top_p`.
    """

    conversation: Sequence[Message] | Prompt
    """Turns, or a `Prompt` from `Answerer.prompt`, so that another thread can tokenize ahead of the model."""
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    seed: int = 0
    """Sampling depends only on it, the conversation and the position in the answer."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer, which stops before the first of them."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's score for each occurrence in the answer."""
    presence_penalty: float = 0.0
    """Subtracted from a token's score once if it occurs in the answer."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, added to its score)."""
    top_logprobs: int | None = None
    """Events have log probabilities: each token's and those of so many best ones. None: they have not."""
    ignore_eos: bool = False
    """The end token does not end the answer. Its text leaves it out."""
    said: tuple[int, ...] = ()
    """Tokens that the answer has already: it goes on behind them, as it did when they were said. They count among
    `max_new_tokens`."""

    @property
    def narrows(self) -> bool:
        """Whether sampling is limited to some tokens."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0)

    @property
    def adjusts(self) -> bool:
        """Whether scores differ from logits."""
        return bool(self.frequency_penalty or self.presence_penalty or self.logit_bias)


@dataclass(frozen=True)
class Answer:
    """A model's answer. `stop`: it ended by itself or at a stop text; `length`: it reached max_new_tokens."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class Logprobs:
    """Log probabilities at one position of an answer, natural: of the model's own distribution, the softmax of its
    logits. Bias, penalties, temperature, `top_p` and `top_k` do not change them."""

    token: float
    """The chosen token's."""
    best: tuple[tuple[int, float], ...] = ()
    """(token, its log probability) of the most likely ones, best first."""


@dataclass(frozen=True)
class Event:
    """One token of one request, the one that it gets at batch size 1: nothing takes it back. The last comes with the
    whole answer."""

    request: int
    """What `AnswerEngine.add` returned."""
    token: int
    answer: Answer | None = None
    logprobs: Logprobs | None = None
    cached_tokens: int = 0
    """Tokens of the prompt whose keys and values were copied from an earlier one."""


@dataclass(frozen=True)
class Stats:
    """An engine's state and counts since it was made."""

    waiting: int
    running: int
    waiting_tokens: int
    """Tokens that the waiting requests may still need: of their prompts, and of their longest answers."""
    prompt_tokens: int
    """Tokens of all prompts that joined."""
    shared_tokens: int
    """Of these, tokens whose keys and values were copied from a prompt before."""
    answer_tokens: int
    near_ties: int
    """Of the answers' tokens, those that were decided at batch size 1."""
    cache_bytes: int
    """Keys and values that are reserved for running requests, and those of kept prefixes."""
