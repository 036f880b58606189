"""MME (Fu et al., arXiv 2306.13394): two yes/no questions to a picture, fourteen subtasks, two sums of scores.

A subtask's score is 100 x accuracy + 100 x accuracy over pictures, of which both answers must be right; perception
sums ten of them, cognition four. Answers are read as in calculation.py of the official eval_tool (branch Evaluation of
BradyFU/Awesome-Multimodal-Large-Language-Models, dd29509): lower case, and what the first four characters hold. Lines
of LLaVA's find their questions as in its convert_answer_to_mme.py. The tool takes two lines that follow each other
for one picture's; here answers belong together by their picture, which differs only where a file is out of order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from remora.evaluation.answers import Warnings
from remora.evaluation.asking import Question
from remora.evaluation.benchmarks.base import Benchmark
from remora.evaluation.benchmarks.layout import first_file, image_folder
from remora.evaluation.benchmarks.mme_files import COGNITION, PERCEPTION, SUBTASKS, YES_OR_NO, Asked, answered, asked
from remora.evaluation.benchmarks.prompts import SHORT, llava_questions
from remora.evaluation.figures import Figure, mean, ratio, total
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, Item


class MME(Benchmark):
    name, title, headline = "mme", "MME", "perception"

    def questions(self, data: Path) -> list[Question]:
        if found := first_file(data, "*_mme.jsonl"):
            images = image_folder(data, "MME_Benchmark_release_version")
            return llava_questions(found, images, max_new_tokens=128)
        return [
            Question(q.image, q.text.replace(YES_OR_NO, "").strip() + SHORT, (q.picture,), 128, q.group)
            for q in asked(data)
        ]

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        everything = asked(data)
        said = answered(everything, answers, warnings)
        if absent := [s for s in SUBTASKS if s not in {q.subtask for q in everything}]:
            warnings.add("subtasks", f"the data has no {', '.join(absent)}; the sums are of the others")
        items = [_item(q, said.get(q.key)) for q in everything]
        return Graded(items, protocol, warnings.all())

    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
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
    """What calculation.py reads: `yes` or `no` among the first four characters, else `other`."""
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def _item(question: Asked, said: str | None) -> Item:
    read = "" if said is None else yes_or_no(said)
    score = float(read == question.gold)
    return Item(question.image, said or "", read, score, question.group, question.gold, (question.subtask,))


def _of_pictures(items: Sequence[Item], subtask: str) -> Figure:
    """Accuracy over pictures, a picture counted at its first question."""
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
