"""Ask a model questions of a benchmark. A question that cannot be asked is reported and does not affect others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from remora.errors import BrokenRecord, DataError
from remora.evaluation.question import Question
from remora.files import digest

if TYPE_CHECKING:
    from remora.inference import Answerer, FittedPicture, Request

Condition = Literal["pictures", "blind"]
"""Asked about its own picture, or about another one."""


@dataclass(frozen=True)
class Ask:
    """A question and its index in the benchmark, from 0."""

    index: int
    condition: Condition
    question: Question


def ask(answerer: Answerer, asks: Sequence[Ask]) -> list[dict[str, object]]:
    """LLaVA's answer line for each ask, with its `index` and `condition`; if it failed, `broken` has the reason.

    An answer's limit is the published one, or the room that a small model has left after the prompt. A picture with
    several questions is opened and hashed once, and held at the encoder's size, since all pictures of a call would not
    fit at their own size.
    """
    from remora.inference import Message, Request

    opened: dict[str, FittedPicture] = {}
    lines: list[dict[str, object]] = []
    places: list[int] = []
    requests: list[Request] = []
    for place, a in enumerate(asks):
        lines.append({"index": a.index, "condition": a.condition, "question_id": a.question.id})
        try:
            for shown in a.question.pictures:
                if str(shown) not in opened:
                    opened[str(shown)] = answerer.picture(shown.open())
            turn = Message("user", a.question.text, tuple(opened[str(s)] for s in a.question.pictures))
            prompt = answerer.prompt([turn])
        except (BrokenRecord, DataError) as e:
            lines[place]["broken"] = str(e)
            continue
        places.append(place)
        requests.append(Request(prompt, min(a.question.max_new_tokens, answerer.room(prompt))))
    for place, answer in zip(places, answerer.answer(requests), strict=True):
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
