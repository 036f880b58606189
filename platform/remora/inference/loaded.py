"""A model for use from Python: a picture and a question in, a text out.

model = remora.load("share-Sig-Phi")
model.answer("cat.png", "What is this?")
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from remora.data.pictures import open_image
from remora.inference.answerer import Answerer
from remora.inference.requests import Message, Request


class LoadedModel:
    """A model in memory. Benchmarks and the endpoint use the same `answerer`, so answers are the same."""

    def __init__(self, answerer: Answerer, folder: Path) -> None:
        self.answerer = answerer
        self.folder = folder
        """Its bundle."""

    @property
    def name(self) -> str:
        """The variant's."""
        return self.answerer.name

    def answer(
        self,
        image: Path | str | Image.Image | None,
        text: str,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str:
        """Answer one question.

        Args:
            image: A file, a picture of any mode, or None for a question without one.
            max_new_tokens: Maximum tokens of the answer.
            temperature: 0 is greedy; above 0, tokens are sampled with `seed` and `top_p`.

        Raises:
            RemoraError: the picture cannot be read, or the question is too long for the model.
        """
        opened = open_image(Path(image)) if isinstance(image, str | Path) else image
        shown = (opened.convert("RGB"),) if opened else ()
        request = Request((Message("user", text, shown),), max_new_tokens, temperature, top_p, seed=seed)
        return self.answerer.answer([request])[0].text
