"""VizWiz's second task, whether a question can be answered at all: average precision and F1 of `unanswerable`.

They are computed if every answer has `answerable`, the confidence that there is an answer; no model of the papers gives
it. The formulas are scikit-learn's average_precision_score and f1_score, which the VizWiz API calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from remora.evaluation.answers import AnswerLine, Warnings
from remora.evaluation.benchmarks.protocol import Truth
from remora.evaluation.figures import Figure, mean, ratio
from remora.evaluation.report import ScoredAnswer

GOLD, SAID = "answerable=", "said answerable="
LARGE = 1e9
"""Largest confidence: they are about 1; this excludes infinity and integers too large for a float."""


def marks(truths: Sequence[Truth], said: Mapping[str, AnswerLine], warnings: Warnings) -> dict[str, tuple[str, ...]]:
    """Labels of every question with the truth and the answer's confidence; none unless every question has both."""
    if not any("answerable" in a.record for a in said.values()):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for t in truths:
        gold = t.row.get("answerable")
        sure = said[t.key].record.get("answerable") if t.key in said else None
        if gold not in (0, 1) or not isinstance(sure, (int, float)) or not abs(sure) < LARGE:
            line = f"{t.key}: `answerable` is {sure!r} in its answer and {gold!r} in the data"
            warnings.add("questions without `answerable`", f"{line}; answerability is not scored")
            continue
        found[t.key] = (f"{GOLD}{int(gold)}", f"{SAID}{float(sure)!r}")
    return found if len(found) == len(truths) else {}


def answerability(items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
    """Average precision as the mean, over unanswerable questions, of the precision at their own threshold."""
    if not items or not all(any(label.startswith(SAID) for label in i.labels) for i in items):
        return {}
    truth = np.array([1.0 - _number(i, GOLD) for i in items])
    sure = np.array([1.0 - _number(i, SAID) for i in items])
    ordered, positive = np.sort(sure), np.sort(sure[truth == 1])
    above = len(sure) - np.searchsorted(ordered, sure)
    precision = (len(positive) - np.searchsorted(positive, sure)) / above
    said = sure > 0.5
    both = said * truth
    return {
        "answerability.average_precision": mean(precision, truth),
        "answerability.f1": ratio(2 * both, said + truth),
    }


def _number(item: ScoredAnswer, prefix: str) -> float:
    return float(next(label for label in item.labels if label.startswith(prefix)).removeprefix(prefix))
