"""The demo's questions: one maker per kind of question, used for training and test files.

Each maker returns a QuestionAnswer: its text, its answer, and the choices if it offers any.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from remora.demo.concepts import Concept

WHAT = "What is this?"
KIND = "What kind of thing is this?"


@dataclass(frozen=True)
class QuestionAnswer:
    """A question with its only right answer; `choices` if the text offers some."""

    text: str
    answer: str
    category: str
    choices: tuple[str, ...] = ()

    @property
    def turn(self) -> tuple[str, str]:
        """(question, answer), for a conversation."""
        return self.text, self.answer


def name(concept: Concept) -> QuestionAnswer:
    """What is this? -> dog face"""
    return QuestionAnswer(WHAT, concept.name, "name")


def kind(concept: Concept) -> QuestionAnswer:
    """What kind of thing is this? -> animal"""
    return QuestionAnswer(KIND, concept.kind, "kind")


def name_of_four(concept: Concept, names: Sequence[str], rng: random.Random) -> QuestionAnswer:
    """Which of these is it: pear, dog face, taxi or tiger? -> dog face"""
    others = rng.sample([other for other in names if other != concept.name], min(3, len(names) - 1))
    choices = _shuffled([concept.name, *others], rng)
    return QuestionAnswer(f"Which of these is it: {listed(choices)}?", concept.name, "name of four", choices)


def kind_of_four(concept: Concept, sizes: Mapping[str, int], rng: random.Random) -> QuestionAnswer:
    """Which kind is it: food, animal, flag or vehicle? -> animal

    Wrong kinds are drawn in proportion to their size. If drawn evenly, the biggest of the four would be right far more
    often than one time in four, and a model could do well without looking.
    """
    others: list[str] = []
    weights = {other: size for other, size in sizes.items() if other != concept.kind}
    while weights and len(others) < 3:
        others += rng.choices(list(weights), list(weights.values()))
        del weights[others[-1]]
    choices = _shuffled([concept.kind, *others], rng)
    return QuestionAnswer(f"Which kind is it: {listed(choices)}?", concept.kind, "kind of four", choices)


def listed(words: Sequence[str]) -> str:
    """a, b, c or d"""
    return f"{', '.join(words[:-1])} or {words[-1]}"


def one(thing: str) -> str:
    """A name with its article: a dog face, an owl, jeans."""
    head = re.split(r" with | of ", thing)[0]
    if head.endswith("s") and not head.endswith(("ss", "us", "os")):
        return thing
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def _shuffled(words: list[str], rng: random.Random) -> tuple[str, ...]:
    rng.shuffle(words)
    return tuple(words)
