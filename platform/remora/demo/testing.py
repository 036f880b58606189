"""The demo's question files: one JSON object per line, with the right answer.

easy-vqa-val     all questions about 200 training pictures that are in no training file
easy-vqa-test    the published test split, complete, in its order and wording
openmoji-seen    seen concepts, on pictures that are in no training file
openmoji-unseen  concepts that no training file shows or names
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from remora.demo import question_makers
from remora.demo.concepts import Concept
from remora.demo.openmoji import RENDITIONS
from remora.demo.question_makers import QuestionAnswer
from remora.demo.shapes import ShapePicture, category

QuestionLine = dict[str, object]


def easy_vqa(pictures: Iterable[ShapePicture], part: str) -> list[QuestionLine]:
    """All questions about the pictures; `part` is their folder, train or test."""
    return numbered(
        (f"easy-vqa/{part}/{picture.number}.png", QuestionAnswer(text, answer, category(answer)))
        for picture in pictures
        for text, answer in picture.turns
    )


def seen(concepts: Sequence[Concept], seed: int) -> list[QuestionLine]:
    """Which of four names, and the kind, on a new picture of each seen concept."""
    names = [concept.name for concept in concepts]
    return numbered(
        (f"openmoji/{concept.code}-{RENDITIONS}.png", question)
        for concept in concepts
        for question in (
            question_makers.name_of_four(concept, names, random.Random(f"{seed}/seen/{concept.code}")),
            question_makers.kind(concept),
        )
    )


def unseen(concepts: Sequence[Concept], seed: int) -> list[QuestionLine]:
    """The kind, open and of four, on one picture of each held-out concept."""
    sizes = Counter(concept.kind for concept in concepts)
    return numbered(
        (f"openmoji/{concept.code}-0.png", question)
        for concept in concepts
        for question in (
            question_makers.kind(concept),
            question_makers.kind_of_four(concept, sizes, random.Random(f"{seed}/unseen/{concept.code}")),
        )
    )


def numbered(questions: Iterable[tuple[str, QuestionAnswer]]) -> list[QuestionLine]:
    lines = []
    for number, (image, question) in enumerate(questions):
        line: QuestionLine = {
            "question_id": number,
            "image": image,
            "text": question.text,
            "answer": question.answer,
            "category": question.category,
        }
        lines.append(line | ({"choices": list(question.choices)} if question.choices else {}))
    return lines
