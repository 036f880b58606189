"""Shared parts of published prompts: LLaVA's question files, its suffixes, its lines of options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.benchmarks.files import first_file, lines
from remora.evaluation.question import Question

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def options(texts: Sequence[str]) -> str:
    """`A. first` and so on, one per line."""
    return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))


def llava_list(data: Path, *patterns: str) -> Path | None:
    """LLaVA's question file: `data` itself, or the first match in its folder."""
    return data if data.suffix == ".jsonl" else first_file(data, *patterns)


def llava_questions(path: Path, images: Path, max_new_tokens: int) -> list[Question]:
    """LLaVA's question file: JSON lines {question_id, image, text, category}; `text` is the whole prompt.

    Raises:
        DataError: a line is not a question.
    """
    found = []
    for where, r in lines(path):
        identity, text, image = r.get("question_id"), r.get("text"), r.get("image") or ""
        if not isinstance(identity, (str, int)) or not isinstance(text, str) or not isinstance(image, str):
            raise DataError(f"{where}: not a question; expected question_id, image and text")
        shown = (Picture(str(images / image)),) if image else ()
        found.append(Question(identity, text, shown, max_new_tokens, image or str(identity)))
    return found
