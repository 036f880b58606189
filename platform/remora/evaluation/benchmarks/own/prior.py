"""The question-only baseline: the most likely answer, by the training data, to a question's words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from remora.data.conversation import Sample, with_system
from remora.evaluation.benchmarks.own.questions import OwnQuestion


class QuestionOnly:
    """Answers from training conversations, without a picture or a model.

    For a question with the same words in training: its most frequent answer there. For one with choices: the choice
    that was the answer most often. Otherwise the most frequent answer of all. Ties are broken alphabetically.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.by_question: dict[str, Counter[str]] = defaultdict(Counter)
        self.all: Counter[str] = Counter()
        for sample in samples:
            _, turns = with_system(sample.turns)
            for ask, reply in zip(turns[::2], turns[1::2], strict=True):
                self.by_question[ask.text][reply.text] += 1
                self.all[reply.text] += 1

    def answer(self, question: OwnQuestion) -> str:
        known = self.by_question.get(question.text)
        if known:
            return _most_frequent(known)
        if question.choices:
            return _most_frequent(Counter({c: self.all[c] for c in question.choices}))
        return _most_frequent(self.all)


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))
