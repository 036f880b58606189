"""Asking a model some questions of a benchmark. A question that cannot be asked is named and costs no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from remora.errors import BrokenRecord, DataError
from remora.evaluation.asking import Question
from remora.files import digest

if TYPE_CHECKING:
    from remora.inference import Answerer, Turn

Condition = Literal["pictures", "blind"]
"""Asked about its own picture, or about another one."""


@dataclass(frozen=True)
class Ask:
    """A question in its place: `index` counts the benchmark's questions from 0."""

    index: int
    condition: Condition
    question: Question


STEP = 64
"""Shorter limits than the published ones are multiples of it, so that questions with one limit are asked together."""


def ask(answerer: Answerer, asks: Sequence[Ask]) -> list[dict[str, Any]]:
    """LLaVA's answer line of each ask, with its `index` and `condition`; `broken` says why instead of `text`.

    A picture of several questions is opened once and is one object, so that it is encoded once.
    """
    from remora.inference import Turn

    opened: dict[str, Image.Image] = {}
    lines: list[dict[str, Any]] = []
    able: dict[int, list[tuple[int, list[Turn]]]] = {}
    for place, a in enumerate(asks):
        lines.append({"index": a.index, "condition": a.condition, "question_id": a.question.id})
        try:
            for shown in a.question.pictures:
                if str(shown) not in opened:
                    opened[str(shown)] = shown.open()
            turn = Turn("user", a.question.text, tuple(opened[str(s)] for s in a.question.pictures))
            limit = _limit(answerer.room([turn]), a.question.max_new_tokens)
        except (BrokenRecord, DataError) as e:
            lines[place]["broken"] = str(e)
            continue
        able.setdefault(limit, []).append((place, [turn]))
    for limit, group in able.items():
        answers = answerer.answer([conversation for _, conversation in group], max_new_tokens=limit)
        for (place, _), answer in zip(group, answers, strict=True):
            question = asks[place].question
            lines[place] |= {
                "prompt": question.prompt if question.prompt is not None else question.text,
                "text": answer.text,
                "answer_id": digest([answerer.name, asks[place].index, asks[place].condition, question.id])[:22],
                "model_id": answerer.name,
                "metadata": {"finish_reason": answer.finish_reason, "tokens": answer.completion_tokens},
                **question.extra,
            }
    return lines


def _limit(room: int, published: int) -> int:
    """The published limit of an answer, or what a small model has room for behind the prompt.

    Raises:
        DataError: there is no room for a word.
    """
    if room < 1:
        raise DataError("the prompt fills the model's context; there is no room for an answer")
    if room >= published:
        return published
    return room - room % STEP if room > STEP else room
