"""Render turns to pieces of a prompt, with a catalog template."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from remora.catalog import Template
from remora.data.conversation import Turn, with_system


@dataclass(frozen=True)
class Piece:
    """A piece of a rendered conversation: text, one special token (`token`), or one picture."""

    text: str = ""
    token: bool = False
    image: bool = False
    supervised: bool = False


def pattern_of(specials: Iterable[str]) -> re.Pattern[str]:
    """A pattern for special tokens in template text; it prefers the longest."""
    return re.compile("|".join(re.escape(s) for s in sorted(specials, key=len, reverse=True)))


@lru_cache(maxsize=4096)
def split_tokens(text: str, specials: re.Pattern[str], supervised: bool = False) -> tuple[Piece, ...]:
    """Split template text (never a turn's text) at its special tokens."""
    pieces, at = [], 0
    for found in specials.finditer(text):
        pieces += [Piece(text[at : found.start()], supervised=supervised), Piece(found[0], True, supervised=supervised)]
        at = found.end()
    pieces.append(Piece(text[at:], supervised=supervised))
    return tuple(p for p in pieces if p.text)


def content(turn: Turn, suffix: str, specials: re.Pattern[str]) -> list[Piece]:
    """A user's turn: its pictures, each with its suffix, then its text.

    Without text the last suffix is stripped of spaces: LLaVA strips a message after inserting the picture.
    """
    pieces: list[Piece] = []
    for number in range(turn.images):
        last = number == turn.images - 1 and not turn.text
        pieces += [Piece(image=True), *split_tokens(suffix.rstrip() if last else suffix, specials)]
    return [*pieces, Piece(turn.text)]


def answer(head: str, lead: str, text: str, ending: str, stop: str, specials: re.Pattern[str]) -> list[Piece]:
    """An assistant's turn. Supervised is what the model writes: `lead`, its text, and `ending` up to the stop token.

    An ending without the stop token (`plain` has none) is supervised completely.
    """
    before, end, after = ending.partition(stop)
    return [
        *split_tokens(head, specials),
        *split_tokens(lead, specials, True),
        Piece(text, supervised=True),
        *split_tokens(before + end, specials, True),
        *split_tokens(after, specials),
    ]


def asked_under(system: str, turns: Sequence[Turn]) -> list[Turn]:
    """The turns for a prompt without a place for a system message: it goes before the first question's text."""
    first, *rest = turns
    return [replace(first, text=f"{system}\n\n{first.text}".strip()), *rest]


class Marks:
    """A catalog template, with a tokenizer's `bos` and the token that ends an answer."""

    def __init__(self, template: Template, stop: str, bos: str, specials: Iterable[str]) -> None:
        self.template = template
        self.stop = stop
        self.specials = pattern_of(specials)
        fill = {"{bos}": bos, "{eos}": stop}
        filled = (
            re.sub(r"\{bos\}|\{eos\}", lambda m: fill[m[0]], text)
            for text in (
                template.system,
                template.user,
                template.assistant,
                template.opening or template.user,
                template.system_opening or "",
            )
        )
        self.system, self.user, self.assistant, self.opening, self.system_opening = filled

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """The pieces of a conversation. If the last turn is the user's, they end where the next answer starts."""
        header, _, ending = self.assistant.partition("{text}")
        # Most tokenizers put the space before an answer into its first token, so the model must write that space.
        head = header.rstrip(" ")
        lead = header[len(head) :]
        system, turns = with_system(turns)
        start, opening = self.system, self.opening
        if system and self.system_opening:
            start, _, opening = self.system_opening.partition("{system}")
        elif system:
            turns = asked_under(system, turns)
        out = [*split_tokens(start, self.specials)]
        if system and self.system_opening:
            out.append(Piece(system))
        for number, turn in enumerate(turns):
            if turn.role == "assistant":
                out += answer(head, lead, turn.text, ending, self.stop, self.specials)
                continue
            before, after = (self.user if number else opening).split("{image}", 1)
            between, words, rest = after.partition("{text}")  # `plain` has no {text}: the caption's prompt is unused
            said = content(turn, self.template.image_suffix, self.specials)
            out += [*split_tokens(before, self.specials), *said[:-1], *split_tokens(between, self.specials)]
            out += [said[-1], *split_tokens(rest, self.specials)] if words else []
        if turns and turns[-1].role == "user":
            out += split_tokens(head, self.specials)
        return out
