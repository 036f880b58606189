"""MM-Vet (Yu et al., arXiv 2308.02490): open questions, each answer scored from 0 to 1 by a judge.

The rules are those of mm-vet_evaluator.py (github.com/yuweihao/MM-Vet at acde843): one user message with a table of
examples and the row to complete, three tokens at temperature 0. A reply that is not a number in [0, 1] is requested
again, at a higher temperature. Answers are LLaVA's lines, MM-Vet's results `{"v1_0": text}`, or the evaluator's grades
`{"v1_0": {"model": […], "content": […], "score": […]}}`, which needs no judge.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from remora.errors import DataError
from remora.evaluation.answers import AnswerLine, Warnings, match, read_records
from remora.evaluation.benchmarks.files import submission
from remora.evaluation.benchmarks.mmvet import files
from remora.evaluation.benchmarks.mmvet.files import Grade
from remora.evaluation.benchmarks.protocol import Benchmark, Truth
from remora.evaluation.figures import Figure, mean, printed
from remora.evaluation.judge import Judge, in_order, judge_texts
from remora.evaluation.question import Question
from remora.evaluation.report import Graded, ScoredAnswer

AGAIN = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Temperatures of the retries; the first is the first request's."""
UNGRADED = Grade((), "")


class MMVet(Benchmark):
    headline = "total"
    judged, judge_model = True, "gpt-4-0613"
    lists = ("llava-mm-vet.jsonl", "bunny-mm-vet.jsonl")
    suffix, max_new_tokens = "", 1024

    def truths(self, data: Path) -> list[Truth]:
        return files.source(data)

    def asked(self, truth: Truth) -> Question:
        """The question with LLaVA's id, the number of `v1_0`."""
        number = re.fullmatch(r"v1_(0|[1-9][0-9]{0,9})", str(truth.id))
        return replace(super().asked(truth), id=int(number[1]) if number else truth.id)

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        truths = self.truths(data)
        records = read_records(answers, warnings)
        graded = files.is_graded(records)
        if graded:
            grades, by = files.grades(records, warnings), files.judges(records)
            match(
                [AnswerLine(i, "", f"{answers.name}: {i}") for i in grades], [t.key for t in truths], answers, warnings
            )
            items = [_outcome(t, "", grades.get(t.key, UNGRADED)) for t in truths]
        else:
            said = match(files.answers(records, warnings), [t.key for t in truths], answers, warnings)
            if judge is None:
                raise DataError(f"{answers}: MM-Vet's answers need a judge; give one, or the evaluator's grade file")
            items, by = judged(judge, truths, said, warnings), judge.model
        return Graded(items, protocol, warnings.all() + _spread(items), by)

    def figures(self, items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
        runs = _runs(items)
        counts = Counter(label for i in items for label in i.labels)
        order = sorted(counts, key=lambda label: (label.split(".")[0], -counts[label]))
        found = {}
        for label in ("", *order):
            chosen = np.array([not label or label in i.labels for i in items], np.bool_)
            # The evaluator's own sums: a capability's score is often a half of a tenth, which they round either way.
            sums = runs[chosen].cumsum(axis=0)[-1]
            published = float(np.round((sums / max(1, chosen.sum()) * 100).mean(), 1))
            found[label or "total"] = printed(mean([i.score for i in items], chosen), published)
        return found

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """Write every question's answer, which the evaluator requires."""
        said = {a.id: a.text for a in files.answers(read_records(answers, Warnings()), Warnings())}
        texts = {t.key: said.get(t.key, "") for t in self.truths(data)}
        return submission(folder / "mm-vet.json", json.dumps(texts, indent=2))


def judged(
    judge: Judge, truths: Sequence[Truth], said: Mapping[str, AnswerLine], warnings: Warnings
) -> list[ScoredAnswer]:
    """Every question's outcome by the judge; `warnings` gets answers without a score."""
    asked = [t for t in truths if t.key in said]
    replies = in_order(lambda t: _grade(judge, t, said[t.key].text), asked)
    grades = {t.key: grade for t, grade in zip(asked, replies, strict=True)}
    for i in (i for i, grade in grades.items() if not grade.scores):
        warnings.add("replies without a score", f"{i}: the judge gave no number in [0, 1]; it counts as wrong")
    return [_outcome(t, said[t.key].text if t.key in said else "", grades.get(t.key, UNGRADED)) for t in truths]


def _outcome(truth: Truth, answer: str, grade: Grade) -> ScoredAnswer:
    return truth.outcome(answer, grade.parsed, sum(grade.scores) / max(1, len(grade.scores)))


def _grade(judge: Judge, truth: Truth, answer: str) -> Grade:
    """The judge's score, with the evaluator's number of retries; none if it gives no number."""
    texts = judge_texts(__file__)
    gold = truth.gold.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    prompt = f"{texts['table']}\n{truth.text} | {gold} | {answer} | "
    reply = judge.ask([{"role": "user", "content": prompt}], temperature=0.0, max_tokens=3)
    again = [{"role": "user", "content": prompt + texts["again"]}]
    for temperature in AGAIN:
        said = reply.split(" ")[0].strip()
        with contextlib.suppress(ValueError):
            score = float(said)
            if math.isnan(score):  # the evaluator takes it for a score, and then has no total
                return UNGRADED
            if 0 <= score <= 1:
                return Grade((score,), said)
        reply = judge.ask(again, temperature=temperature, max_tokens=3)
    return UNGRADED  # the evaluator does not read the last reply either


def _runs(items: Sequence[ScoredAnswer]) -> NDArray[np.float64]:
    """Scores [items, runs]; 0 for missing ones."""
    read = [[float(s) for s in i.parsed.split()] for i in items]
    count = max(1, *(len(r) for r in read))
    return np.array([r or [0.0] * count for r in read], np.float64).reshape(len(items), count)


def _spread(items: Sequence[ScoredAnswer]) -> list[str]:
    """The totals of several runs and their deviation, which the evaluator prints beside the mean."""
    totals = 100 * _runs(items).mean(axis=0)
    if len(totals) < 2:
        return []
    said = ", ".join(f"{t:.1f}" for t in totals)
    return [f"the scores are means of {len(totals)} runs with totals of {said}; their deviation is {totals.std():.1f}"]
