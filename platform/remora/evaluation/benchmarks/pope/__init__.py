"""POPE, COCO (Li et al., arXiv 2305.10355): is an object in the picture, yes or no, in three splits.

Answers are read as in evaluate.py of AoiDragon/POPE 08d957b and LLaVA's eval_pope.py, which have the same rule. These
join answers to labels by position in the file, which is silently wrong if the two are of different versions; here every
answer is joined to its question (answers.py). Figures are in percent, as the papers print them, and `f1` is the mean
over the splits. A question without an answer counts as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from remora.evaluation.answers import AnswerLine, Warnings
from remora.evaluation.benchmarks.pope.answers import joined
from remora.evaluation.benchmarks.pope.files import SPLITS, labelled
from remora.evaluation.benchmarks.protocol import RowBenchmark, Truth
from remora.evaluation.figures import Figure, ratio, total
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, ScoredAnswer


class POPE(RowBenchmark):
    headline = "f1"
    lists, pictures = ("*_pope_test.jsonl",), ("val2014",)

    def truths(self, data: Path) -> list[Truth]:
        return [truth for split in labelled(data).values() for truth in split]

    def read(self, answer: AnswerLine, truth: Truth) -> tuple[str, float]:
        read = yes_or_no(answer.text)
        return read, float(read == truth.gold)

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        items = [
            truth.outcome() if said is None else truth.outcome(said.text, *self.read(said, truth))
            for truth, said in joined(labelled(data), answers, questions, warnings)
        ]
        return Graded(items, protocol, warnings.all())

    def figures(self, items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
        splits = [s for s in SPLITS if any(s in i.labels for i in items)]
        found = {split: _of_one([i if split in i.labels else None for i in items]) for split in splits}
        figures = {"f1": total((found[s]["f1"] for s in splits), 1 / max(1, len(splits)))}
        return figures | {f"{name}.{split}": figure for split in splits for name, figure in found[split].items()}


def yes_or_no(text: str) -> str:
    """`no` if the text before the first full stop contains one of three words, else `yes`, even for an empty answer."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if "No" in words or "not" in words or "no" in words else "yes"


def _of_one(items: Sequence[ScoredAnswer | None]) -> dict[str, Figure]:
    """One split's figures; items of others are None. Yes is positive."""
    there = [i is not None for i in items]
    true = [i is not None and i.gold == "yes" for i in items]
    # A missing answer counts as the wrong answer.
    said = [i is not None and (i.score == 1) == (i.gold == "yes") for i in items]
    both = [t and s for t, s in zip(true, said, strict=True)]
    return {
        "f1": ratio([2.0 * b for b in both], [float(t) + float(s) for t, s in zip(true, said, strict=True)]),
        "precision": ratio(both, said),
        "recall": ratio(both, true),
        "accuracy": ratio([i is not None and i.score for i in items], there),
        "yes_ratio": ratio(said, there),
    }
