"""Answers of several models to the same questions, in the terminal and as an HTML page.

Questions and answers are untrusted: on the page jinja2 escapes them, and the page loads nothing and runs no script (its
filter is CSS).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image
from rich.console import Console
from rich.text import Text

from remora.evaluation.question import Shown
from remora.files import write_atomic
from remora.reporting.escaped import templates
from remora.reporting.samples import visible

TEMPLATE = "answers.html.j2"
THUMBNAIL = 320
"""Longest side of a picture on the page, in pixels."""
AllOf = Literal["right", "wrong", "differing"]


@dataclass(frozen=True)
class Given:
    """One model's answer."""

    model: str
    answer: str
    parsed: str
    score: float
    right: bool


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with every model's answer."""

    id: str | int
    text: str
    pictures: tuple[Shown, ...]
    gold: str
    given: tuple[Given, ...]

    def as_json(self) -> dict[str, object]:
        answers = [vars(one) for one in self.given]
        pictures = [str(shown) for shown in self.pictures]
        return {"id": self.id, "question": self.text, "pictures": pictures, "gold": self.gold, "answers": answers}


def outcome(question: AnsweredQuestion) -> AllOf:
    """right or wrong, if all models are; else differing."""
    found = {one.right for one in question.given}
    return "differing" if len(found) > 1 else "right" if found == {True} else "wrong"


def print_answers(console: Console, title: str, questions: Sequence[AnsweredQuestion]) -> None:
    """A block a question: its pictures' names, its words, the right answer and each model's."""
    console.print(Text(visible(title), "bold"), highlight=False, soft_wrap=True)
    for question in questions:
        names = ", ".join(visible(str(shown)).rpartition("/")[2] for shown in question.pictures)
        head = Text.assemble((f"{question.id} ", "bold"), (f"{names} " if names else "", "dim"))
        console.print()
        console.print(head.append(visible(question.text)), highlight=False, soft_wrap=True)
        if question.gold:
            console.print(Text(f"  right: {visible(question.gold)}"), highlight=False, soft_wrap=True)
        for one in question.given:
            mark, style = ("✓", "green") if one.right else ("✗", "red")
            said = Text.assemble((f"  {mark} ", style), (f"{visible(one.model)}: ", "dim"), visible(one.answer) or "–")
            console.print(said, highlight=False, soft_wrap=True)


def write_gallery(
    file: Path,
    title: str,
    models: Sequence[str],
    questions: Sequence[AnsweredQuestion],
    opened: Callable[[Sequence[Shown]], Sequence[Image.Image | str]],
) -> None:
    """Write one self-contained HTML file; `opened` gives each picture, or why it cannot be read."""
    environment = templates(Path(__file__).parent)
    environment.filters |= {"visible": visible}
    shown = (
        (question, outcome(question), [_source(one) for one in opened(question.pictures)]) for question in questions
    )
    write_atomic(file, environment.get_template(TEMPLATE).render(title=title, models=models, questions=shown))


def _source(picture: Image.Image | str) -> dict[str, str]:
    """A picture as a JPEG data URL, or the problem."""
    if isinstance(picture, str):
        return {"problem": picture}
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=88)
    return {"url": "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()}
