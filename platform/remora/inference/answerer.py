"""One engine for answers: evaluation and serving both ask here, so what was measured is what is served."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor

from remora import catalog
from remora.data.conversation import Turn as Message
from remora.errors import DataError, TooLong
from remora.inference.bundle import read_bundle
from remora.inference.decoding import Draws, decode
from remora.inference.reading import Pictures, can_share, read_shared, read_whole, token_bytes
from remora.inference.recent import Recent
from remora.inference.rows import Row, plan
from remora.inference.sampling import Sampling
from remora.model.parts import compose
from remora.model.vlm import VisionLanguageModel
from remora.reading.images import preprocess, shrunk
from remora.reading.prompt import Prompter, token_id


@dataclass(frozen=True)
class Turn:
    """One message with its pictures (RGB)."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the model said. `stop` means that it ended by itself or at a stop text, `length` that max_new_tokens did."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """A conversation as the model reads it: ids with IMAGE where pictures go, and the pictures in reading order."""

    ids: tuple[int, ...]
    images: tuple[Image.Image, ...] = ()


class Answerer:
    """A trained variant, ready to answer.

    `ask_alone` is how an answer is defined: one conversation, its pictures encoded by themselves, its prompt read
    whole. `ask` gives the same answers, sooner, each by settings of its own: pictures are encoded together and each
    once, questions about one picture share what the language model made of it, and rows decode together. A row whose
    choice could hang on that is asked alone (decoding.py).
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
        self.max_length = int(cast(Any, model.llm).config.max_position_embeddings)
        self._recent = Recent(lambda turns: tuple(prompter.encode(turns).ids), self.max_length)
        self.vocabulary = int(cast(Any, model.llm).get_input_embeddings().weight.shape[0])
        """Number of tokens that it can say."""
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

    def prompt(self, conversation: Sequence[Turn]) -> Prompt:
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
        ids = self._recent.get(tuple(Message(turn.role, turn.text, len(turn.images)) for turn in conversation))
        if len(ids) >= self.max_length:
            raise TooLong(len(ids), 1, self.max_length)
        return Prompt(ids, tuple(image for turn in conversation for image in turn.images))

    def fitted(self, picture: Image.Image) -> Image.Image:
        """The picture as small as it may be to keep, about as the encoder sees it: answers are the same."""
        return shrunk(picture, self.encoder, self.aspect)

    def room(self, prompt: Prompt) -> int:
        """Tokens that the context has left for an answer, at least one."""
        return self.max_length - len(prompt.ids)

    def answer(
        self,
        conversations: Sequence[Sequence[Turn]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Answer]:
        """`ask` about conversations that all have the same settings.

        Raises:
            DataError: as `prompt` and `ask` do.
        """
        how = Sampling(max_new_tokens, temperature, seed=seed)
        return self.ask([(self.prompt(conversation), how) for conversation in conversations])

    def ask(
        self, requests: Sequence[tuple[Prompt, Sampling]], done: Callable[[int, Answer], None] | None = None
    ) -> list[Answer]:
        """The answer to each prompt, by its own settings; `done` is told of each, by its index, as soon as it is there.

        No answer depends on the others. What a sampled one draws follows from its seed and its own conversation.

        Raises:
            TooLong: a prompt and what may follow it are more than the context holds.
        """
        rows = [self._row(prompt, how) for prompt, how in requests]
        shown = {id(image): image for prompt, _ in requests for image in prompt.images}
        seeds = [self._seed(row, shown, how) for row, (_, how) in zip(rows, requests, strict=True)]
        pictures: dict[int, Tensor] = {}
        found: dict[int, Answer] = {}

        def finish(i: int, tokens: list[int]) -> None:
            found[i] = self._finish(tokens, rows[i], requests[i][1])
            if done is not None:
                done(i, found[i])

        for batch in plan(rows, self.shares, self.batch, self.cache_bytes // self._token_bytes):
            if len(batch) > 1:
                wanted = {name: shown[name] for i in batch for name in rows[i].images}
                # Only what this batch and the last one both show is kept: all pictures of a call may not fit.
                kept = {name: pictures[name] for name in wanted if name in pictures}
                pictures = kept | self._encode({n: i for n, i in wanted.items() if n not in kept}, self.picture_batch)
                draws = Draws([requests[i][1] for i in batch], [seeds[i] for i in batch])
                self._together([rows[i] for i in batch], pictures, draws, partial(_renumbered, finish, batch))
            for i in batch:
                if i not in found:
                    finish(i, self._alone(rows[i], shown, Draws([requests[i][1]], [seeds[i]])))
        return [found[i] for i in range(len(rows))]

    def answer_alone(
        self, conversation: Sequence[Turn], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Answer:
        """The answer by batch size 1, with nothing shared; see `ask_alone`.

        Raises:
            DataError: as `answer` does.
        """
        return self.ask_alone(self.prompt(conversation), Sampling(max_new_tokens, temperature, seed=seed))

    def ask_alone(self, prompt: Prompt, how: Sampling) -> Answer:
        """The answer by batch size 1, with nothing shared: what `ask` is held against.

        Raises:
            TooLong: as `ask` does.
        """
        row = self._row(prompt, how)
        shown = {id(image): image for image in prompt.images}
        draws = Draws([how], [self._seed(row, shown, how)])
        return self._finish(self._alone(row, shown, draws), row, how)

    def _row(self, prompt: Prompt, how: Sampling) -> Row:
        if len(prompt.ids) + how.max_new_tokens > self.max_length:
            raise TooLong(len(prompt.ids), how.max_new_tokens, self.max_length)
        return Row(prompt.ids, tuple(id(image) for image in prompt.images), how.max_new_tokens)

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
    def _together(
        self, rows: Sequence[Row], pictures: Pictures, draws: Draws, done: Callable[[int, list[int]], None]
    ) -> None:
        llm = self.model.llm
        reading = read_shared(llm, rows, pictures) if self.shares else read_whole(llm, rows, pictures)
        decode(llm, reading, draws, self.stop_id, ended=self._ends(draws.settings), done=done)

    @torch.inference_mode()
    def _alone(self, row: Row, shown: Mapping[int, Image.Image], draws: Draws) -> list[int]:
        pictures = self._encode({name: shown[name] for name in row.images}, 1)
        reading = read_whole(self.model.llm, [row], pictures)
        (said,) = decode(self.model.llm, reading, draws, self.stop_id, alone=True, ended=self._ends(draws.settings))
        assert said is not None  # alone, nothing is left undecided
        return said

    def _ends(self, settings: Sequence[Sampling]) -> Callable[[int, list[int]], bool] | None:
        """Whether a row's tokens hold one of its stop texts; asked after every token, it reads the last few first."""
        if not any(how.stop for how in settings):
            return None
        # Each token but a special one is at least one byte of UTF-8.
        most = [max((len(text.encode("utf-8", "surrogatepass")) for text in how.stop), default=0) for how in settings]

        def ended(row: int, said: list[int]) -> bool:
            stop = settings[row].stop
            if not stop or not any(text in self._text(said[-most[row] - 8 :]) for text in stop):
                return False
            return _before(self._text(said), stop) is not None

        return ended

    def _seed(self, row: Row, shown: Mapping[int, Image.Image], how: Sampling) -> int:
        """What a sampled answer draws from: the request's seed, the conversation's tokens, its pictures as seen."""
        if not how.temperature:
            return 0
        content = hashlib.blake2b(repr((how.seed, row.ids)).encode(), digest_size=7)
        for name in row.images:
            content.update(self.fitted(shown[name]).tobytes())
        return int.from_bytes(content.digest())

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.prompter.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _finish(self, said: list[int], row: Row, how: Sampling) -> Answer:
        stopped = said[-1] == self.stop_id
        text = self._text(said[: len(said) - stopped])
        before = _before(text, how.stop)
        if before is not None:
            text, stopped = before, True
        return Answer(text.strip(), len(row.ids), len(said), "stop" if stopped else "length")


def _renumbered(told: Callable[[int, list[int]], None], numbers: Sequence[int], i: int, said: list[int]) -> None:
    told(numbers[i], said)


def _before(text: str, stop: Sequence[str]) -> str | None:
    """An answer's text before the first of its stop texts; None if it holds none. The space that most tokenizers put
    before an answer is not part of it."""
    text = text.lstrip()
    places = [at for at in (text.find(each) for each in stop) if at >= 0]
    return text[: min(places)] if places else None
