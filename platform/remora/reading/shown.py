"""A sample as the model reads it, for people: its tokens and pictures. Imports no torch; reading/view.py makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from remora.data.conversation import Turn


@dataclass(frozen=True)
class Token:
    """One token, or several that form one character (up to four for an emoji)."""

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Span:
    """Adjacent tokens of one kind: text, special tokens, or the positions of one picture."""

    kind: Literal["words", "special", "image"]
    supervised: bool
    tokens: tuple[Token, ...]

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


@dataclass(frozen=True)
class PictureView:
    """A picture as stored, and as the encoder gets it (S x S; None without an encoder)."""

    name: str
    original: Image.Image | None
    seen: Image.Image | None = None
    shown: bool = True
    """Whether it is in the part of the conversation that was not cut."""
    problem: str = ""


@dataclass(frozen=True)
class View:
    """One sample, as a stage reads it."""

    position: int
    dataset: str
    record: int
    """The number of its record in the source."""
    id: str
    turns: tuple[Turn, ...] = ()
    pictures: tuple[PictureView, ...] = ()
    spans: tuple[Span, ...] = ()
    """Empty if the sample is dropped or unreadable, or there is no template."""
    tokens: int = 0
    supervised: int = 0
    image_tokens: int = 0
    max_length: int | None = None
    whole: int = 0
    """Tokens of the whole conversation, before it is cut."""
    rounds: tuple[int, int] = (0, 0)
    """Question-answer rounds: (kept, total)."""
    dropped: str = ""
    """Why it is dropped."""
    problems: tuple[str, ...] = ()
    """The error that would stop training here."""
