"""What the published code does with a conversation: render it as one text, tokenise it, count tokens for the mask.

Written from the sources in docs/prompts.md, in two parts. `Published` has their rendering and tokenisation.
`mask_by_counting` is their mask, with its counted corrections, and gives None where they would throw the sample away;
`mask_by_beginnings` is what it is meant to be: a token belongs to an answer if it comes after the tokens of everything
up to the colon, and within the tokens of everything up to the end token.

All of it runs on a tokenizer's twin, whose special tokens no text can spell; on a text that spells none it is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from prompt_tokenizers import private, specials_of, twin
from tokenizers import Tokenizer
from transformers import LlamaTokenizer

from remora.data.conversation import Turn
from remora.token_ids import IGNORE, IMAGE

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
LLAVA_2 = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
PICTURE = "\ue300"
"""`<image>` under a name that no text spells."""


@dataclass(frozen=True)
class Round:
    question: str
    answer: str
    images: int

    @property
    def message(self) -> str:
        """LLaVA's preprocess_multimodal; several pictures stay several, which LLaVA makes one of."""
        return (f"{PICTURE}\n" * self.images + self.question.strip()).strip() if self.images else self.question


def turns_of(rounds) -> list[Turn]:
    """What `parse_turns` makes of them, but that the ends of texts without a picture are kept."""
    turns = []
    for r in rounds:
        turns += [Turn("user", r.question.strip() if r.images else r.question, r.images), Turn("assistant", r.answer)]
    return turns


def slow(tokenizer: Any, names: Iterable[str]) -> Callable[..., Any]:
    """`encode` of what the published code reads a Llama's files with: the tokenizer written in Python, which puts its
    space before a text that begins with one, too. Without `legacy`, only the text's first piece gets it."""
    encode = twin(tokenizer, names).encode
    if not isinstance(tokenizer, LlamaTokenizer):
        return encode
    said = json.loads(twin(tokenizer, names).to_str())
    said["pre_tokenizer"]["prepend_scheme"] = "never"
    if tokenizer.legacy:
        said["pre_tokenizer"] = None
        prepend, replace = (
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        )
        said["normalizer"] = {"type": "Sequence", "normalizers": [prepend, replace]}
    backend = Tokenizer.from_str(json.dumps(said))
    if tokenizer.legacy:
        return backend.encode
    special = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(t) for t in names}
    space = tokenizer.convert_tokens_to_ids("▁")

    def first(text: str, add_special_tokens: bool) -> Any:
        ids = backend.encode(" " + text, add_special_tokens=False).ids if text else []
        ids = ids[1:] if ids[:1] == [space] and (len(ids) == 1 or ids[1] in special) and text[:1] != " " else ids
        return SimpleNamespace(ids=[*([tokenizer.bos_token_id] if add_special_tokens else []), *ids])

    return first


class Published:
    """Rendering and tokenising by the published code; `n` positions a picture, `written` are the template's tokens."""

    def __init__(self, tokenizer: Any, n: int, written: Iterable[str]) -> None:
        self.tokenizer = tokenizer
        self.n = n
        self.names = {t: private(t) for t in specials_of(tokenizer, written)}
        self.legacy = bool(getattr(tokenizer, "legacy", True))
        self.eos = self.private(tokenizer.eos_token)
        self.rendered = lru_cache(maxsize=100_000)(self._rendered)
        self.on(slow(tokenizer, self.names))

    def on(self, encode: Callable[..., Any]) -> Published:
        """Itself, on what `encode(text, add_special_tokens)` makes of a text."""
        self.chunk = lru_cache(maxsize=100_000)(lambda text, bos: encode(text, add_special_tokens=bos).ids)
        self.bos = self.chunk("a", True)[: -len(self.chunk("a", False))]
        return self

    def private(self, text: str) -> str:
        for token, name in self.names.items():
            text = text.replace(token, name)
        return text

    def ids(self, text: str, bos: bool = True) -> list[int]:
        """tokenizer_image_token: every chunk between pictures is tokenised separately; all but the first lose their
        BOS."""
        first, *others = text.split(PICTURE)
        ids = list(self.chunk(first, bos))
        for other in others:
            ids += [IMAGE, *self.chunk(other, False)]
        return ids

    def expand(self, ids, labels) -> tuple[list[int], list[int]]:
        pairs = [p for i, label in zip(ids, labels, strict=True) for p in [(i, label)] * (self.n if i == IMAGE else 1)]
        return [i for i, _ in pairs], [label for _, label in pairs]

    # The templates: a list of (text up to an answer's colon, text up to its end token), and the whole text.

    def v1(self, rounds, system: str, eos: str) -> tuple[list[tuple[str, str]], str]:
        text, spans = system + " " if system else "", []
        for r in rounds:
            text += f"USER: {r.message} ASSISTANT:"
            start, text = text, f"{text} {r.answer}{eos}"
            spans.append((start, text))
        return spans, text

    def llama_2(self, rounds) -> tuple[list[tuple[str, str]], str]:
        bos = self.private(self.tokenizer.bos_token) if self.tokenizer.bos_token else ""
        text, spans = "", []
        for number, r in enumerate(rounds):
            system = "" if number else f"<<SYS>>\n{LLAVA_2}\n<</SYS>>\n\n"
            text += f"{bos if number else ''}[INST] {system}{r.message} [/INST]"
            start, text = text, f"{text} {r.answer} {self.eos}"
            spans.append((start, text))
        return spans, text

    def chat(self, rounds, jinja: str, stop: str) -> tuple[list[tuple[str, str]], str]:
        """By apply_chat_template: what it asks an answer with, and what it has written up to the answer's stop."""
        contents = tuple(c.strip() for r in rounds for c in (r.message, r.answer))
        spans = []
        for number in range(1, len(contents), 2):
            start = self.rendered(contents[:number], jinja).rstrip(" ")
            written = self.rendered(contents[: number + 1], jinja)
            spans.append((start, written[: written.rindex(self.private(stop))] + self.private(stop)))
        return spans, self.rendered(contents, jinja)

    def _rendered(self, contents: tuple[str, ...], jinja: str) -> str:
        messages = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
        named = {
            f"{name}_token": self.private(getattr(self.tokenizer, f"{name}_token") or "") for name in ("bos", "eos")
        }
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.private(jinja),
            tokenize=False,
            add_generation_prompt=len(messages) % 2 == 1,
            **named,
        )

    # The masks.

    def mask_by_beginnings(self, ids: list[int], spans, bos: bool = True) -> list[int]:
        labels = [IGNORE] * len(ids)
        for start, end in spans:
            first, last = len(self.ids(start, bos)), len(self.ids(end, bos))
            labels[first:last] = ids[first:last]
        return labels

    def mask_by_counting(self, ids: list[int], text: str, sep: str, end: str, hack: bool) -> list[int] | None:
        """LLaVA's v1 and llama_2, Factory's llama and gemma, Bunny's with_bos where there is a BOS, else its other.

        Each round is tokenised with a BOS, which counts for the end token. The last token before the
        answer is the lone space that the answer's first word takes. `hack`: from the second round on, one token less.
        """
        bos = len(self.bos)
        labels, at = list(ids), bos
        labels[:at] = [IGNORE] * at
        for number, said in enumerate(text.split(end)):
            if not said:
                break
            parts = said.split(sep)
            if len(parts) != 2:
                break
            less = int(hack and number > 0)
            asked = len(self.ids(parts[0] + sep)) - 1 - bos - less
            labels[at : at + asked] = [IGNORE] * asked
            at += len(self.ids(said)) + 1 - bos - less
        return labels if at == len(ids) else None
