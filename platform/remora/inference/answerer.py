"""One engine for answers: evaluation and serving both ask here, so what was measured is what is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from remora import catalog
from remora.data.conversation import Turn as Message
from remora.data.images import preprocess
from remora.data.prompt import Prompter, token_id
from remora.errors import DataError
from remora.inference.bundle import read_bundle
from remora.model.parts import compose
from remora.model.vlm import VisionLanguageModel, place


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

    Prompts of one length are answered together, without padding: attention then sees exactly what it would see alone,
    and no position depends on a batch mate.
    """

    batch = 64
    """Conversations that go through the language model at once."""
    picture_batch = 16
    """Pictures that go through the encoder at once; on a CPU its activations should fit the cache."""

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
        self._ids = lru_cache(maxsize=4096)(lambda turns: prompter.encode(turns).ids)
        self.max_length = int(model.llm.config.max_position_embeddings)  # type: ignore[union-attr,arg-type]

    @classmethod
    def load(cls, folder: Path, cache: Path | None = None) -> Answerer:
        """The variant of a bundle folder; `cache` is the run folder's cache of pretrained parts."""
        bundle = read_bundle(folder, cache or folder.parent / "cache")
        model, tokenizer = compose(bundle.parts, bundle.seed)
        prompter = Prompter(catalog.template(bundle.template), tokenizer, model.image_tokens)
        return cls(bundle.name, model, prompter, bundle.parts["vision"].name, bundle.aspect)

    def answer(
        self,
        conversations: Sequence[Sequence[Turn]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Answer]:
        """Answer each conversation; its last turn is the user's. Temperature 0 is greedy.

        Raises:
            DataError: a conversation does not end with the user, holds a system turn, or is too long.
        """
        prompts = [self._encode(c, max_new_tokens) for c in conversations]
        pictures = self._pictures([i for c in conversations for turn in c for i in turn.images])
        answers: dict[int, Answer] = {}
        by_length: dict[int, list[int]] = {}
        for i, prompt in enumerate(prompts):
            by_length.setdefault(len(prompt), []).append(i)
        for same in by_length.values():
            for start in range(0, len(same), self.batch):
                rows = same[start : start + self.batch]
                shown = [pictures[id(i)] for row in rows for turn in conversations[row] for i in turn.images]
                ids = torch.tensor([prompts[row] for row in rows])
                said = self._generate(ids, shown, max_new_tokens, temperature, seed)
                answers.update(zip(rows, said, strict=True))
        return [answers[i] for i in range(len(prompts))]

    def room(self, conversation: Sequence[Turn]) -> int:
        """Tokens that the context has left for an answer to this conversation, at least one.

        Raises:
            DataError: as `answer` does.
        """
        return self.max_length - len(self._encode(conversation, 1))

    def _encode(self, conversation: Sequence[Turn], max_new_tokens: int) -> list[int]:
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
        return ids

    @torch.inference_mode()
    def _pictures(self, images: Sequence[Image.Image]) -> dict[int, Tensor]:
        """Embeddings [image_tokens, hidden] by id() of the picture: one asked about ten times is encoded once."""
        distinct = list({id(i): i for i in images}.values())
        out: dict[int, Tensor] = {}
        for start in range(0, len(distinct), self.picture_batch):
            chunk = distinct[start : start + self.picture_batch]
            pixels = torch.stack([preprocess(i, self.encoder, self.aspect) for i in chunk])
            embeddings = self.model.image_embeddings(pixels)
            out.update((id(image), e) for image, e in zip(chunk, embeddings, strict=True))
        return out

    @torch.inference_mode()
    def _generate(self, ids: Tensor, pictures: list[Tensor], limit: int, temperature: float, seed: int) -> list[Answer]:
        """ids [B, T] of equal true length, pictures in reading order; at most `limit` new tokens each."""
        llm = self.model.llm
        embeddings = llm.get_input_embeddings()(ids.clamp(min=0))  # type: ignore[operator]
        if pictures:
            embeddings = place(embeddings, ids, torch.stack(pictures))
        out = llm(inputs_embeds=embeddings, use_cache=True, logits_to_keep=1)
        generator = torch.Generator().manual_seed(seed)
        tokens: list[Tensor] = []
        done = torch.zeros(len(ids), dtype=torch.bool)
        for _ in range(limit):
            chosen = _choose(out.logits[:, -1].float(), temperature, generator)  # [B]
            tokens.append(chosen)
            done |= chosen == self.stop_id
            if bool(done.all()) or len(tokens) == limit:
                break
            out = llm(input_ids=chosen[:, None], past_key_values=out.past_key_values, use_cache=True)
        return [self._finish(row, ids.shape[1]) for row in torch.stack(tokens, dim=1).tolist()]

    def _finish(self, row: list[int], prompt_tokens: int) -> Answer:
        stopped = self.stop_id in row
        kept = row[: row.index(self.stop_id)] if stopped else row
        text = str(self.prompter.tokenizer.decode(kept, skip_special_tokens=True)).strip()
        return Answer(text, prompt_tokens, len(kept) + stopped, "stop" if stopped else "length")


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Greedy at temperature 0, else one draw a row; logits [B, V]."""
    if temperature == 0.0:
        return logits.argmax(dim=-1)
    return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator).squeeze(-1)
