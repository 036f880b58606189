"""MM-Vet (Yu et al., arXiv 2308.02490): open questions, each answer scored from 0 to 1 by a judge.

The rules are those of mm-vet_evaluator.py (github.com/yuweihao/MM-Vet at acde843): one user message with a table of
examples and the row to complete, three tokens at temperature 0. A reply that is no number in [0, 1] is asked for again,
hotter each time. Answers are LLaVA's lines, MM-Vet's results `{"v1_0": text}`, or the evaluator's grade file
`{"v1_0": {"model": […], "content": […], "score": […]}}`, which needs no judge.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from remora.errors import DataError
from remora.evaluation.answers import Warnings, answered, read_records
from remora.evaluation.asking import Question
from remora.evaluation.benchmarks import mmvet_files
from remora.evaluation.benchmarks.base import Benchmark
from remora.evaluation.benchmarks.judging import TEXTS, message
from remora.evaluation.benchmarks.mmvet_files import Entry, Grade
from remora.evaluation.benchmarks.prompts import llava_questions
from remora.evaluation.figures import Figure, mean, printed
from remora.evaluation.judge import Judge, in_order
from remora.evaluation.report import Graded, Item

AGAIN = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Temperatures of the repetitions: the first is as cold as the first request."""

UNGRADED = Grade((), "")
LISTS = ("llava-mm-vet.jsonl", "bunny-mm-vet.jsonl")
"""The papers' question files."""


class MMVet(Benchmark):
    name, title, headline = "mmvet", "MM-Vet", "total"
    judged, judge_model = True, "gpt-4-0613"

    def questions(self, data: Path) -> list[Question]:
        listed = [data] if data.suffix == ".jsonl" else [p for name in LISTS for p in sorted(data.rglob(name))]
        if listed:
            return llava_questions(listed[0], listed[0].parent / "images", max_new_tokens=1024)
        return [Question(e.number, e.question, (e.shown,), 1024, e.group) for e in mmvet_files.entries(data).values()]

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        entries = mmvet_files.entries(data)
        records = read_records(answers, warnings)
        graded = mmvet_files.is_graded(records)
        said = {} if graded else mmvet_files.answers(records, warnings)
        grades = mmvet_files.grades(records, warnings) if graded else {}
        given = dict.fromkeys(grades, "") | said
        answered(entries, given, warnings)
        if not entries.keys() & given.keys():
            raise DataError(f"{answers}: answers none of the questions of {data}, {next(iter(entries))} and so on")
        by = mmvet_files.judges(records)
        if not graded:
            if judge is None:
                raise DataError(f"{answers}: MM-Vet's answers need a judge; give one, or the evaluator's grade file")
            by, asked = judge.model, [e for i, e in entries.items() if i in said]
            grades = judge_all(judge, {e.id: (e.question, e.gold, said[e.id]) for e in asked}, warnings)
        items = [_item(e, said.get(i, ""), grades.get(i, UNGRADED)) for i, e in entries.items()]
        return Graded(items, protocol, warnings.all() + _spread(items), by)

    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
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
        warnings = Warnings()
        said = mmvet_files.answers(read_records(answers, warnings), warnings)
        # The evaluator looks for an answer to every question.
        texts = {i: said.get(i, "") for i in mmvet_files.entries(data)}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "mm-vet.json"
        path.write_text(json.dumps(texts, indent=2), encoding="utf-8")
        return [path]


def _item(entry: Entry, answer: str, grade: Grade) -> Item:
    labels = (*(f"capability.{c}" for c in entry.capabilities), f"combination.{'_'.join(entry.capabilities)}")
    score = sum(grade.scores) / max(1, len(grade.scores))
    return Item(entry.id, answer, grade.parsed, score, entry.group, entry.gold, labels)


def judge_all(judge: Judge, asked: Mapping[str, tuple[str, str, str]], warnings: Warnings) -> dict[str, Grade]:
    """The grade of each (question, right answer, answer), by id; those without a score are named in `warnings`."""
    grades = dict(zip(asked, in_order(lambda one: _judged(judge, *one), list(asked.values())), strict=True))
    for i in (i for i, grade in grades.items() if not grade.scores):
        warnings.add("replies without a score", f"{i}: the judge gave no number in [0, 1]; it counts as wrong")
    return grades


def _judged(judge: Judge, question: str, gold: str, answer: str) -> Grade:
    """The score that the judge gives, after as many requests as the evaluator makes; none if it gives no number."""
    gold = gold.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    prompt = f"{TEXTS['mmvet_table']}\n{question} | {gold} | {answer} | "
    reply = judge.ask([message("user", prompt)], temperature=0.0, max_tokens=3)
    again = [message("user", prompt + TEXTS["mmvet_again"])]
    for temperature in AGAIN:
        said = reply.split(" ")[0].strip()
        with contextlib.suppress(ValueError):
            score = float(said)
            if math.isnan(score):  # which the evaluator takes for a score, and has no total then
                return UNGRADED
            if 0 <= score <= 1:
                return Grade((score,), said)
        reply = judge.ask(again, temperature=temperature, max_tokens=3)
    return UNGRADED  # the evaluator does not read the last reply either


def _runs(items: Sequence[Item]) -> NDArray[np.float64]:
    """Scores [items, runs]; nought where there was none."""
    read = [[float(s) for s in i.parsed.split()] for i in items]
    count = max(1, *(len(r) for r in read))
    return np.array([r or [0.0] * count for r in read], np.float64).reshape(len(items), count)


def _spread(items: Sequence[Item]) -> list[str]:
    """The totals of several runs and their deviation, which the evaluator prints beside the mean."""
    totals = 100 * _runs(items).mean(axis=0)
    if len(totals) < 2:
        return []
    said = ", ".join(f"{t:.1f}" for t in totals)
    return [f"the scores are means of {len(totals)} runs with totals of {said}; their deviation is {totals.std():.1f}"]
