"""A model that answers. Evaluation and serving share it, so what was measured is what is served."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, cast

import torch
from PIL import Image
from torch import Tensor

from remora import catalog
from remora.data.conversation import Turn
from remora.errors import DataError, TooLong
from remora.inference.bundle import Bundle, read_bundle
from remora.inference.decoding import can_join, token_bytes
from remora.inference.engine import CACHE_BYTES, CHUNK, ROWS, AnswerEngine
from remora.inference.generation import Generation
from remora.inference.int8 import to_int8
from remora.inference.pictures import PICTURES
from remora.inference.products import pack
from remora.inference.recent import Recent
from remora.inference.requests import Answer, FittedPicture, Message, Prompt, Request
from remora.inference.sampling import NEAR, NEAR_INT8
from remora.inference.text import Detokenizer
from remora.model.blocks import token_table
from remora.model.parts import compose
from remora.model.vlm import VisionLanguageModel
from remora.reading.images import preprocess, shrunk
from remora.reading.prompt import Prompter, token_id

KEPT_TOKENS = 1 << 18
"""Tokens of cached prompts: about 10 MB of ids, plus their text. Benchmarks ask the same few questions about many
pictures, and tokenizing one costs as much as answering it."""


class Answerer:
    """A trained variant, ready to answer.

    `answer_alone` defines an answer: batch size 1, pictures encoded one at a time, the prompt read whole. `answer`
    gives the same answers faster, with an AnswerEngine. `engine` makes one for requests that come and go.
    """

    def __init__(
        self,
        name: str,
        model: VisionLanguageModel,
        prompter: Prompter,
        vision: str,
        aspect: Literal["square", "pad"] = "square",
        near: float | None = None,
    ) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.prompter = prompter
        self.encoder = catalog.vision(vision)
        self.aspect = aspect
        self.fitted: Callable[[Image.Image], Image.Image] = partial(shrunk, encoder=self.encoder, aspect=aspect)
        """Shrinks an RGB picture to about the encoder's size, to save memory: answers are the same. Can be pickled."""
        self.stop_id = token_id(prompter.tokenizer, prompter.stop)
        llm = model.llm
        self.max_length = int(llm.config.max_position_embeddings)
        self.vocabulary = int(token_table(llm).shape[0])
        """Number of tokens that it can generate."""
        self.dtype: torch.dtype = token_table(llm).dtype
        self.near: float = NEAR[self.dtype] if near is None else near
        """How near two scores are a near tie (sampling.py)."""
        self.joins = can_join(llm, self.near)
        """Whether prompts of different lengths go through the language model together."""
        self.token_bytes = token_bytes(llm)
        """Bytes of one token's keys and values."""
        self._ids: Recent[tuple[int, ...]] = Recent(KEPT_TOKENS, len)
        self._tokenizing = threading.Lock()  # tokenizers are not thread-safe

    @classmethod
    def load(cls, folder: Path, cache: Path | None = None, dtype: torch.dtype = torch.float32) -> Answerer:
        """Load a bundle folder's variant, on a GPU if this process has one; `cache` is the run folder's cache of
        pretrained parts. Another `dtype` gives other answers, each still that of batch size 1 (sampling.py)."""
        return cls.of(read_bundle(folder, cache or folder.parent / "cache"), dtype)

    @classmethod
    def of(cls, bundle: Bundle, dtype: torch.dtype = torch.float32) -> Answerer:
        """Load a variant from the folders of its parts; see `load`."""
        model, tokenizer = compose(bundle.parts, bundle.seed)
        prompter = Prompter(catalog.template(bundle.template), tokenizer, model.image_tokens)
        device, near = "cuda" if torch.cuda.is_available() else "cpu", None
        if bundle.weights == "int8":
            if device == "cuda":
                raise DataError(f"{bundle.name}: int8 weights answer on CPUs only; next: without --weights int8")
            to_int8(model.llm)
            near = NEAR_INT8
        model = model.to(device, dtype)
        pack(model)
        return cls(bundle.name, model, prompter, bundle.parts["vision"].name, bundle.aspect, near)

    def prompt(self, conversation: Sequence[Message]) -> Prompt:
        """The conversation as tokens, checked; its last turn is the user's. Any thread may call this.

        Raises:
            DataError: the conversation does not end with the user, or turns do not follow each other.
            TooLong: the context has no room for an answer of one token.
        """
        roles = [turn.role for turn in conversation]
        asked = roles[1:] if roles[:1] == ["system"] else roles
        if len(asked) % 2 == 0 or asked != [("user", "assistant")[i % 2] for i in range(len(asked))]:
            raise DataError(
                "a conversation is turns of user and assistant, behind a system turn or none, and ends with the user's "
                f"question; here is {', '.join(roles[:8]) or 'nothing'}"
            )
        turns = tuple(Turn(turn.role, turn.text, len(turn.images)) for turn in conversation)
        with self._tokenizing:
            ids = self._ids.get(turns)
            if ids is None:
                ids = tuple(self.prompter.encode(turns).ids)
                if len(ids) >= self.max_length:
                    raise TooLong(len(ids), 1, self.max_length)
                self._ids.put(turns, ids)
        shown = (image for turn in conversation for image in turn.images)
        return Prompt(ids, tuple(i if isinstance(i, FittedPicture) else self.picture(i) for i in shown))

    def picture(self, image: Image.Image) -> FittedPicture:
        """The same as an object for turns, whose content is hashed only once for any number of questions."""
        return FittedPicture(self.fitted(image))

    def room(self, prompt: Prompt) -> int:
        """Tokens left in the context for an answer, at least one."""
        return self.max_length - len(prompt.ids)

    def engine(
        self, rows: int = ROWS, cache_bytes: int = CACHE_BYTES, chunk: int = CHUNK, pictures: int = PICTURES
    ) -> AnswerEngine:
        """A new engine for requests that come and go."""
        return AnswerEngine(self, rows, cache_bytes, chunk, pictures)

    def answer(self, requests: Sequence[Request], done: Callable[[int, Answer], None] | None = None) -> list[Answer]:
        """The answer to each request; `done` is called with each index and answer as soon as it is complete.

        Raises:
            DataError: as `prompt` does, for any of them and before the first is answered.
            TooLong: a prompt and its answer may exceed the context.
        """
        read = [
            r if isinstance(r.conversation, Prompt) else replace(r, conversation=self.prompt(r.conversation))
            for r in requests
        ]
        engine, found = AnswerEngine(self), dict[int, Answer]()
        numbers = {engine.add(read[i]): i for i in _best_order([cast(Prompt, r.conversation) for r in read])}
        while engine.busy:
            for event in engine.step():
                if event.answer is not None:
                    i = numbers[event.request]
                    found[i] = event.answer
                    if done is not None:
                        done(i, event.answer)
        return [found[i] for i in range(len(requests))]

    def answer_alone(self, request: Request) -> Answer:
        """The answer at batch size 1, with nothing shared: the reference for `answer`.

        Raises:
            DataError: as `answer` does.
        """
        generation, answer = Generation(self, request), None
        while answer is None:
            answer = generation.say(generation.exact())
        return answer

    def text(self, tokens: Sequence[int]) -> str:
        return str(self.prompter.tokenizer.decode(list(tokens), skip_special_tokens=True))

    @cached_property
    def detokenizer(self) -> Detokenizer:
        """Its tokenizer's way from tokens to text."""
        return Detokenizer(self.prompter.tokenizer)

    @torch.inference_mode()
    def embeddings(self, pictures: Sequence[FittedPicture], at_once: int = 1) -> list[Tensor]:
        """Each picture's embeddings [image_tokens, hidden]; `at_once` pictures go through the encoder together."""
        out: list[Tensor] = []
        device = next(self.model.parameters()).device
        for start in range(0, len(pictures), at_once):
            chunk = pictures[start : start + at_once]
            pixels = torch.stack([preprocess(picture.image, self.encoder, self.aspect) for picture in chunk])
            out += self.model.image_embeddings(pixels.to(device, self.dtype))
        return out


def _best_order(prompts: Sequence[Prompt]) -> list[int]:
    """The order in which a list of prompts is answered fastest: bodies of equal length together, prompts about the same
    picture side by side, shortest first."""
    longest: dict[object, tuple[int, int]] = {}
    for i, prompt in enumerate(prompts):
        length, first = longest.get(prompt.prefix(prompt.body), (0, i))
        longest[prompt.prefix(prompt.body)] = max(length, len(prompt.ids)), first

    def place(i: int) -> tuple[object, ...]:
        prompt = prompts[i]
        return prompt.head, prompt.body, longest[prompt.prefix(prompt.body)], len(prompt.ids)

    return sorted(range(len(prompts)), key=place)
