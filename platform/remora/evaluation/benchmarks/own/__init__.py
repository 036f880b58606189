"""Your own benchmark: a YAML file names the questions, the folder of pictures and the metric."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from remora import catalog
from remora.catalog.entries import OwnBenchmark
from remora.errors import DataError
from remora.evaluation.answers import AnswerLine, Warnings
from remora.evaluation.benchmarks.mmvet import MMVet, judged
from remora.evaluation.benchmarks.own.questions import OwnQuestion, read_questions, shuffled_pictures
from remora.evaluation.benchmarks.pope import yes_or_no
from remora.evaluation.benchmarks.prompts import LETTERS
from remora.evaluation.benchmarks.protocol import RowBenchmark, Truth, breakdowns
from remora.evaluation.figures import Figure, mean, ratio
from remora.evaluation.judge import Judge
from remora.evaluation.question import Question
from remora.evaluation.report import Graded, ScoredAnswer
from remora.evaluation.short_answers import agreement, evalai
from remora.spec import MixtureEntry, load, validate

BLIND_SEED = 0
"""The blind baseline's pictures are shuffled the same way for every variant."""


class Own(RowBenchmark):
    """A benchmark of a catalog entry or of your own YAML. `data` is the folder that its paths are relative to.

    Accuracies are in [0, 1].
    """

    def __init__(self, name: str, entry: OwnBenchmark) -> None:
        super().__init__(name, entry.title)
        self.entry, self.max_new_tokens = entry, entry.max_new_tokens
        self.headline = "f1" if entry.metric == "yes-no" else "accuracy"
        self.protocols = (entry.metric,)
        self.judged = entry.metric == "judge"
        self.judge_model = MMVet.judge_model

    @property
    def own(self) -> dict[str, object]:
        return self.entry.model_dump(mode="json", exclude_defaults=True)

    def listed(self, data: Path) -> list[OwnQuestion]:
        return read_questions(data / self.entry.questions, data / self.entry.images, self.entry.make)

    def truths(self, data: Path) -> list[Truth]:
        return [
            Truth(q.id, q.text, q.answer, q.image.name, (q.category,) if q.category else (), row={"question": q})
            for q in self.listed(data)
        ]

    def questions(self, data: Path) -> list[Question]:
        return [q.asked(self.max_new_tokens) for q in self.listed(data)]

    def blind(self, data: Path) -> list[Question]:
        """The same questions, each about another picture of the benchmark; none if it has only one picture."""
        own = self.listed(data)
        if len({q.image for q in own}) < 2:
            return []
        others = shuffled_pictures(own, BLIND_SEED)
        return [q.asked(self.max_new_tokens, others[q.image]) for q in own]

    def question_only(self, data: Path) -> float | None:
        """The score of the question-only baseline, if the entry names a dataset to learn from.

        Raises:
            DataError: that dataset is missing or unreadable.
        """
        if self.entry.prior is None or self.judged:
            return None
        from remora.data.mixture import read_mixture
        from remora.evaluation.benchmarks.own.prior import QuestionOnly

        prior = QuestionOnly(read_mixture([MixtureEntry(dataset=self.entry.prior)], data)[0])
        own = self.listed(data)
        return sum(METRICS[self.entry.metric](q, prior.answer(q))[1] for q in own) / len(own)

    def read(self, answer: AnswerLine, truth: Truth) -> tuple[str, float]:
        return METRICS[self.entry.metric](truth.row["question"], answer.text)

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        if not self.judged:
            return super().grade(data, answers, protocol, questions, judge)
        if judge is None:
            raise DataError(f"{self.name} is scored by a judge, and there is none; see docs/benchmarks.md")
        warnings = Warnings()
        truths = self.truths(data)
        items = judged(judge, truths, self.said(answers, truths, warnings), warnings)
        return Graded(items, protocol, warnings.all(), judge.model)

    def figures(self, items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
        found = breakdowns(items, scale=1)
        return found | _yes_no(items) if self.entry.metric == "yes-no" else found


def _yes_no(items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
    """Precision, recall, F1 and the share of yes, with yes as the positive answer, as in POPE."""
    yes = [float(i.parsed == "yes") for i in items]
    gold = [float(i.gold.lower() == "yes") for i in items]
    both = [a * b for a, b in zip(yes, gold, strict=True)]
    return {
        "precision": ratio(both, yes, 1),
        "recall": ratio(both, gold, 1),
        "f1": ratio([2 * b for b in both], [a + b for a, b in zip(yes, gold, strict=True)], 1),
        "yes_ratio": mean(yes, scale=1),
    }


def words(answer: str) -> str:
    """The words of an answer in lower case, without punctuation at its ends."""
    return re.sub(r"^\W+|\W+$", "", answer.lower()).strip()


def _exact_match(question: OwnQuestion, answer: str) -> tuple[str, float]:
    """1 if the answer's words are those of a reference answer."""
    read = words(answer)
    return read, float(read in {words(a) for a in question.answers or (question.answer,)})


def _yes_or_no(question: OwnQuestion, answer: str) -> tuple[str, float]:
    """POPE's rule: no if the first sentence has one of the words No, no and not, else yes."""
    read = yes_or_no(answer)
    return read, float(read == question.answer.lower())


def _multiple_choice(question: OwnQuestion, answer: str) -> tuple[str, float]:
    """A single letter or one before a full stop, colon or bracket; else the one choice with the answer's words.

    The reference is a letter or a choice.
    """
    letters = LETTERS[: len(question.choices)]
    lettered = re.match(r"\s*\(?([A-Z])(?:[.):]|\s*$)", answer)
    of_words = {words(c): letter for letter, c in zip(letters, question.choices, strict=True)}
    read = lettered[1] if lettered and lettered[1] in letters else of_words.get(words(answer), "")
    gold = question.answer if question.answer in letters else of_words.get(words(question.answer), "")
    return read, float(read != "" and read == gold)


def _vqa_accuracy(question: OwnQuestion, answer: str) -> tuple[str, float]:
    """How many people agree with the answer, normalised as in TextVQA's scorer (short_answers.py)."""
    read = evalai(answer)
    return read, agreement(read, [evalai(a) for a in question.answers])


METRICS: Mapping[str, Callable[[OwnQuestion, str], tuple[str, float]]] = {
    "exact-match": _exact_match,
    "yes-no": _yes_or_no,
    "multiple-choice": _multiple_choice,
    "vqa-accuracy": _vqa_accuracy,
}
"""Metric -> what was read from an answer, and its score in [0, 1]."""


def own_benchmark(name: str) -> Own:
    """The benchmark in the YAML file that `name` is the path of, or the catalog's of that name.

    Raises:
        UnknownName: there is none; the message lists the existing ones.
        SpecError: the YAML breaks a rule.
    """
    if name.endswith((".yaml", ".yml")):
        return Own(Path(name).stem, load(OwnBenchmark, name))
    catalog.check_benchmark(name)
    return Own(name, catalog.benchmark(name))


def kept_benchmark(name: str, own: dict[str, object]) -> Own:
    """The benchmark stored in a report; SpecError if it breaks a rule."""
    return Own(name, validate(OwnBenchmark, own, f"the report of {name}"))
