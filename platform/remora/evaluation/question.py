"""What a model is asked: a published prompt, the pictures that go with it, and the limit of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from PIL import Image


class Shown(Protocol):
    """A picture that is read when it is needed: data.pictures.Picture, parquet.InParquet, or an InlinePicture."""

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
    """One question as a model is asked it.

    `text` is the whole published prompt with its suffix, without a place for the picture; pictures come first. `extra`
    is what its answer line carries besides LLaVA's own keys (MMBench: round_id, options, option_char).
    """

    id: str | int
    text: str
    pictures: tuple[Shown, ...]
    max_new_tokens: int
    group: str
    """Equal for questions about one picture: they are asked together and are not independent."""
    prompt: str | None = None
    """What the answer line's `prompt` says if it is not `text` (ScienceQA begins with `<image>` and a newline)."""
    extra: Mapping[str, Any] = field(default_factory=dict)
