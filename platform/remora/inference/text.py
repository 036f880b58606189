"""An answer's text while it grows, and the text and bytes of single tokens.

Text is released as soon as no later token can change it. The pieces of an answer are, joined, its whole text
(`Answer.text`), for every tokenizer: incomplete UTF-8, text that may begin a stop text, and white space that may be the
answer's last are held back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEFT = 4
"""Tokens before new ones that are decoded again: a decoder may join a token to the one before it."""
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""A token of one byte, where a vocabulary falls back to bytes."""
BROKEN = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """A tokenizer's way from tokens to text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        kinds = str(getattr(backend, "decoder", None))
        self._bytes_as_letters = "ByteLevel" in kinds
        self._falls_back = "ByteFallback" in kinds
        tidies = tokenizer.clean_up_tokenization_spaces and type(getattr(backend, "model", None)).__name__ != "BPE"
        self.revises = tidies or "WordPiece" in kinds or "CTC" in kinds
        """Whether a token may change the text before it (remove a space), so that no text is final before the end."""

    @cached_property
    def special(self) -> Collection[int]:
        """Tokens without text."""
        return {token for token, about in self._tokenizer.added_tokens_decoder.items() if about.special}

    def text(self, tokens: Sequence[int]) -> str:
        """Of tokens that follow each other, without the special ones."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def is_byte(self, token: int) -> bool:
        """Whether it is one byte of a character, or of a run that is decoded together."""
        return self._falls_back and BYTE.fullmatch(self._piece(token)) is not None

    def bytes_of(self, token: int) -> bytes | None:
        """A token's bytes: those of an answer's tokens make, joined, its text in UTF-8. None for special tokens and
        tokens that no text has."""
        piece = self._piece(token)
        if token in self.special or not piece:
            return None
        if self._bytes_as_letters:
            if all(letter in LETTERS for letter in piece):
                return bytes(LETTERS[letter] for letter in piece)
            return piece.encode()
        if self._falls_back and (byte := BYTE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        return piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

    def shown(self, token: int) -> str:
        """A token's text by itself. A part of a character is shown as a replacement character."""
        found = self.bytes_of(token)
        return self._piece(token) if found is None else found.decode(errors="replace")

    def _piece(self, token: int) -> str:
        """Its spelling in the vocabulary; empty if no token has this number."""
        return str(self._tokenizer.convert_ids_to_tokens(token) or "")


def _letters() -> dict[str, int]:
    """The letters that stand for bytes in vocabularies of GPT-2's kind: printable characters of Latin-1 for themselves,
    the others from 256 on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


LETTERS = _letters()


class GrowingText:
    """The text of one answer, token by token.

    `add` returns the text that is final with a token, `end` the rest. What was returned after n tokens depends only on
    these tokens, so a text can go on elsewhere behind tokens that were said before.
    """

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str] = ()) -> None:
        self._of, self._stop = detokenizer, stop
        self._tokens: list[int] = []
        self._first = 0  # the first token that is decoded again
        self._safe = 0  # tokens whose text no later one changes
        self._seen = 0  # characters of the decoded tokens that are in _text
        self._text = ""
        self.released = ""
        """All that was returned."""

    def add(self, token: int) -> str:
        """The answer has one more token, and does not end with it."""
        if token in self._of.special or self._of.revises:
            return ""
        self._tokens.append(token)
        if self._of.is_byte(token):  # a run of bytes is decoded together: one that is wrong spoils all
            return ""
        window = self._of.text(self._tokens[self._first :])
        complete = not window.endswith(BROKEN)  # else the last character's other bytes may follow
        known = window if complete else window[:-1]
        self._text += known[self._seen :]
        self._seen = len(known)
        if complete:
            if self._safe - self._first >= LEFT:
                self._first = self._safe
                self._seen = len(self._of.text(self._tokens[self._first :]))
            self._safe = len(self._tokens)
        return self._release()

    def end(self, text: str) -> str:
        """The rest of an answer whose whole text is `text`."""
        assert text.startswith(self.released), "text that was final has changed"
        rest, self.released = text[len(self.released) :], text
        return rest

    def _release(self) -> str:
        if not self.released:
            self._text = self._text.lstrip()
        final = len(self._text)
        for stop in self._stop:
            held = next((n for n in range(min(len(stop), len(self._text)), 0, -1) if self._text.endswith(stop[:n])), 0)
            final = min(final, len(self._text) - held)
        final = len(self._text[:final].rstrip())  # an answer does not end with white space
        fresh = self._text[len(self.released) : final]
        self.released += fresh
        return fresh
