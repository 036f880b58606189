"""One engine for answers: evaluation and serving both ask here, so what was measured is what is served."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor

from remora import catalog
from remora.data.conversation import Turn as Message
from remora.data.images import preprocess
from remora.data.prompt import Prompter, token_id
from remora.errors import DataError
from remora.inference.bundle import read_bundle
from remora.inference.decoding import Draws, decode
from remora.inference.reading import Pictures, can_share, read_shared, read_whole, token_bytes
from remora.inference.rows import Row, plan
from remora.model.parts import compose
from remora.model.vlm import VisionLanguageModel


@dataclass(frozen=True)
class Turn:
    """One message with its pictures (RGB)."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the model said. `length` means that max_new_tokens ended it."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


class Answerer:
    """A trained variant, ready to answer.

    `answer_alone` is how an answer is defined: one conversation, its pictures encoded by themselves, its prompt read
    whole. `answer` gives the same answers, sooner: pictures are encoded together and each once, questions about one
    picture share what the language model made of it, and rows decode together. A row whose choice could hang on that
    is asked alone (decoding.py).
    """

    batch = 64
    """Conversations that go through the language model at once, at most."""
    picture_batch = 16
    """Pictures that go through the encoder at once; on a CPU its activations should fit the cache."""
    cache_bytes = 2 << 30
    """Memory for the keys and values of a batch, with room for the longest answers; a single row may exceed it."""

    def __init__(
        self,
        name: str,
        model: VisionLanguageModel,
        prompter: Prompter,
        vision: str,
        aspect: Literal["square", "pad"] = "square",
    ) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.prompter = prompter
        self.encoder = catalog.vision(vision)
        self.aspect = aspect
        self.stop_id = token_id(prompter.tokenizer, prompter.stop)
        # Benchmarks ask the same few questions about many pictures, and tokenising one costs as much as answering it.
        self._ids = lru_cache(maxsize=4096)(lambda turns: tuple(prompter.encode(turns).ids))
        self.max_length = int(cast(Any, model.llm).config.max_position_embeddings)
        self.shares = can_share(model.llm)
        """Whether prompts of different lengths go through the language model together."""
        self._token_bytes = token_bytes(model.llm)

    @classmethod
    def load(cls, folder: Path, cache: Path | None = None) -> Answerer:
        """The variant of a bundle folder, on a GPU where this process was given one; `cache` is the run folder's cache
        of pretrained parts."""
        bundle = read_bundle(folder, cache or folder.parent / "cache")
        model, tokenizer = compose(bundle.parts, bundle.seed)
        prompter = Prompter(catalog.template(bundle.template), tokenizer, model.image_tokens)
        if torch.cuda.is_available():
            model = model.to("cuda")
        return cls(bundle.name, model, prompter, bundle.parts["vision"].name, bundle.aspect)

    def room(self, conversation: Sequence[Turn]) -> int:
        """Tokens that the context has left for an answer to this conversation, at least one.

        Raises:
            DataError: as `answer` does, which refuses all of its conversations for one that cannot be answered.
        """
        return self.max_length - len(self._row(conversation, 1).ids)

    def answer(
        self,
        conversations: Sequence[Sequence[Turn]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Answer]:
        """Answer each conversation; its last turn is the user's. Temperature 0 is greedy.

        No answer depends on the others. What a sampled one draws follows from `seed` and its own conversation.

        Raises:
            DataError: a conversation does not end with the user, holds a system turn, or is too long.
        """
        rows = [self._row(c, max_new_tokens) for c in conversations]
        shown = {id(i): i for c in conversations for turn in c for i in turn.images}
        seeds = [_seed(row, shown, seed) if temperature else 0 for row in rows]
        pictures: dict[int, Tensor] = {}
        said: dict[int, list[int]] = {}
        for batch in plan(rows, max_new_tokens, self.shares, self.batch, self.cache_bytes // self._token_bytes):
            asked = [rows[i] for i in batch]
            if len(batch) > 1:
                wanted = {name: shown[name] for row in asked for name in row.images}
                # Only what this batch and the last one both show is kept: all pictures of a call may not fit.
                kept = {name: pictures[name] for name in wanted if name in pictures}
                pictures = kept | self._encode({n: i for n, i in wanted.items() if n not in kept}, self.picture_batch)
                found = self._together(asked, pictures, max_new_tokens, Draws(temperature, [seeds[i] for i in batch]))
                said.update((i, tokens) for i, tokens in zip(batch, found, strict=True) if tokens is not None)
            for i in batch:
                if i not in said:
                    said[i] = self._alone(rows[i], shown, max_new_tokens, Draws(temperature, [seeds[i]]))
        return [self._finish(said[i], row) for i, row in enumerate(rows)]

    def answer_alone(
        self, conversation: Sequence[Turn], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Answer:
        """The answer by batch size 1, with nothing shared.

        Raises:
            DataError: as `answer` does.
        """
        row = self._row(conversation, max_new_tokens)
        shown = {id(i): i for turn in conversation for i in turn.images}
        draws = Draws(temperature, [_seed(row, shown, seed) if temperature else 0])
        return self._finish(self._alone(row, shown, max_new_tokens, draws), row)

    def _row(self, conversation: Sequence[Turn], max_new_tokens: int) -> Row:
        if not conversation or conversation[-1].role != "user":
            raise DataError("a conversation ends with a user turn; add the question to be answered")
        messages = []
        for turn in conversation:
            if turn.role == "system":
                raise DataError("system turns are not part of this model's prompt; put the words into a user turn")
            messages.append(Message(turn.role, turn.text, len(turn.images)))
        ids = self._ids(tuple(messages))
        if len(ids) + max_new_tokens > self.max_length:
            raise DataError(
                f"the prompt has {len(ids)} tokens and {max_new_tokens} may follow, the model holds {self.max_length}; "
                "shorten the conversation or ask for fewer"
            )
        return Row(ids, tuple(id(i) for turn in conversation for i in turn.images))

    @torch.inference_mode()
    def _encode(self, images: Mapping[int, Image.Image], at_once: int) -> dict[int, Tensor]:
        """Embeddings [image_tokens, hidden] of each picture."""
        out: dict[int, Tensor] = {}
        names = list(images)
        for start in range(0, len(names), at_once):
            chunk = names[start : start + at_once]
            pixels = torch.stack([preprocess(images[name], self.encoder, self.aspect) for name in chunk])
            device = next(self.model.parameters()).device
            out.update(zip(chunk, self.model.image_embeddings(pixels.to(device)), strict=True))
        return out

    @torch.inference_mode()
    def _together(self, rows: Sequence[Row], pictures: Pictures, limit: int, draws: Draws) -> list[list[int] | None]:
        llm = self.model.llm
        reading = read_shared(llm, rows, pictures, limit) if self.shares else read_whole(llm, rows, pictures)
        return decode(llm, reading, limit, self.stop_id, draws)

    @torch.inference_mode()
    def _alone(self, row: Row, shown: Mapping[int, Image.Image], limit: int, draws: Draws) -> list[int]:
        pictures = self._encode({name: shown[name] for name in row.images}, 1)
        reading = read_whole(self.model.llm, [row], pictures)
        (said,) = decode(self.model.llm, reading, limit, self.stop_id, draws, alone=True)
        assert said is not None  # alone, nothing is left undecided
        return said

    def _finish(self, said: list[int], row: Row) -> Answer:
        stopped = said[-1] == self.stop_id
        text = str(self.prompter.tokenizer.decode(said[: len(said) - stopped], skip_special_tokens=True)).strip()
        return Answer(text, len(row.ids), len(said), "stop" if stopped else "length")


def _seed(row: Row, shown: Mapping[int, Image.Image], seed: int) -> int:
    """What a sampled answer draws from: the caller's seed, the conversation's tokens and its pictures."""
    content = hashlib.blake2b(repr((seed, row.ids)).encode(), digest_size=7)
    for name in row.images:
        content.update(repr(shown[name].size).encode() + shown[name].tobytes())
    return int.from_bytes(content.digest())
