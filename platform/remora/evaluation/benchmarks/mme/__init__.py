"""MME (Fu et al., arXiv 2306.13394): two yes/no questions per picture, fourteen subtasks, two sums of scores.

A subtask's score is 100 x accuracy + 100 x accuracy over pictures, where both answers must be right; perception sums
ten of them, cognition four. Answers are read as in calculation.py of the official eval_tool (branch Evaluation of
BradyFU/Awesome-Multimodal-Large-Language-Models, dd29509): the first four characters in lower case. LLaVA's lines find
their questions as in its convert_answer_to_mme.py. The tool takes two consecutive lines for one picture's; here answers
are grouped by their picture, which differs only if a file is out of order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from remora.evaluation.answers import AnswerLine, Warnings, match
from remora.evaluation.benchmarks.mme.files import COGNITION, PERCEPTION, SUBTASKS, YES_OR_NO, read_lines, source
from remora.evaluation.benchmarks.protocol import RowBenchmark, Truth
from remora.evaluation.figures import Figure, mean, ratio, total
from remora.evaluation.question import Question
from remora.evaluation.report import ScoredAnswer


class MME(RowBenchmark):
    headline = "perception"
    lists, pictures = ("*_mme.jsonl",), ("MME_Benchmark_release_version",)

    def truths(self, data: Path) -> list[Truth]:
        return source(data)

    def asked(self, truth: Truth) -> Question:
        return super().asked(replace(truth, text=truth.text.replace(YES_OR_NO, "").strip()))

    def said(self, answers: Path, truths: Sequence[Truth], warnings: Warnings) -> dict[str, AnswerLine]:
        found = match(read_lines(answers, truths, warnings), [t.key for t in truths], answers, warnings)
        if absent := [s for s in SUBTASKS if not any(s in t.labels for t in truths)]:
            warnings.add("subtasks", f"the data has no {', '.join(absent)}; the sums are over the others")
        return found

    def read(self, answer: AnswerLine, truth: Truth) -> tuple[str, float]:
        read = yes_or_no(answer.text)
        return read, float(read == truth.gold)

    def figures(self, items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
        there = [s for s in SUBTASKS if any(s in i.labels for i in items)]
        accuracy = {s: mean([i.score for i in items], [s in i.labels for i in items]) for s in there}
        plus = {s: _of_pictures(items, s) for s in there}
        subtask = {s: total((accuracy[s], plus[s])) for s in there}
        sums = {
            name: total(subtask[s] for s in of if s in subtask)
            for name, of in (("perception", PERCEPTION), ("cognition", COGNITION))
            if any(s in subtask for s in of)
        }
        named = {"subtask": subtask, "accuracy": accuracy, "accuracy_plus": plus}
        return sums | {f"{name}.{s}": figure for name, of in named.items() for s, figure in of.items()}


def yes_or_no(text: str) -> str:
    """calculation.py's rule: `yes` or `no` among the first four characters, else `other`."""
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def _of_pictures(items: Sequence[ScoredAnswer], subtask: str) -> Figure:
    """Accuracy over pictures; a picture counts at its first question."""
    right: dict[str, bool] = {}
    for i in items:
        if subtask in i.labels:
            right[i.group] = right.get(i.group, True) and i.score == 1
    of, over = [], []
    left = dict(right)
    for i in items:
        first = subtask in i.labels and left.pop(i.group, None) is not None
        over.append(float(first))
        of.append(float(first and right[i.group]))
    return ratio(of, over)
