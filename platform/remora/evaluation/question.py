"""Questions to a model: a published prompt, its pictures, and the limit of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image


class Shown(Protocol):
    """A picture that is read on demand: data.pictures.Picture, hub_tables.InParquet, or an InlinePicture."""

    def open(self) -> Image.Image:
        """The picture as RGB; BrokenRecord if it is missing or no decoder reads it."""


@dataclass(frozen=True)
class InlinePicture:
    """A picture whose bytes came with its question, as base64 in MMBench's table."""

    content: bytes = field(repr=False)
    name: str

    def __str__(self) -> str:
        return self.name

    def open(self) -> Image.Image:
        from remora.data.pixels import decode

        return decode(self.content, self.name)


@dataclass(frozen=True)
class Question:
    """One question, ready to ask a model.

    `text` is the whole published prompt with its suffix, without a placeholder for the picture; pictures come first.
    `extra` has keys of its answer line besides LLaVA's own (MMBench: round_id, options, option_char).
    """

    id: str | int
    text: str
    pictures: tuple[Shown, ...]
    max_new_tokens: int
    group: str
    """Equal for questions about one picture: they are asked together and are not independent."""
    prompt: str | None = None
    """The answer line's `prompt` if it is not `text` (ScienceQA begins with `<image>` and a newline)."""
    extra: Mapping[str, object] = field(default_factory=dict)
