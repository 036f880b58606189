"""LLaVA-Bench (In-the-Wild; Liu et al., arXiv 2304.08485): a judge scores GPT-4's answer and the model's side by side.

The rules are those of LLaVA's eval_gpt_review_bench.py (asking) and summarize_gpt_review.py (summing), at c121f04. The
papers' figure is the model's mean score as a percentage of GPT-4's. Answers are LLaVA's lines, or the lines of a review
`{question_id, category, tuple}`, which need no judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from remora.errors import DataError
from remora.evaluation.answers import Records, Warnings, answer_lines, match, read_records
from remora.evaluation.benchmarks.llava_bench import files
from remora.evaluation.benchmarks.llava_bench.files import CATEGORIES, UNREAD
from remora.evaluation.benchmarks.protocol import Benchmark, Truth
from remora.evaluation.figures import Figure, mean, printed, ratio
from remora.evaluation.judge import Judge, in_order, judge_texts
from remora.evaluation.question import Question
from remora.evaluation.report import Graded, ScoredAnswer


class LLaVABench(Benchmark):
    headline = "score"
    judged, judge_model = True, "gpt-4-0314"
    suffix, max_new_tokens = "", 1024

    def truths(self, data: Path) -> list[Truth]:
        return files.source(data, whole=False)

    def asked(self, truth: Truth) -> Question:
        return replace(super().asked(truth), id=files.number(str(truth.id)))

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        records = read_records(answers, warnings)
        if files.is_reviewed(records):
            items = _reviewed(files.source(data, whole=False), records, warnings)
            if not items:
                raise DataError(f"{answers}: no review in it; expected lines of question_id, category and tuple")
            return Graded(items, protocol, warnings.all())
        if judge is None:
            raise DataError(f"{answers}: LLaVA-Bench's answers need a judge; give one, or the file of its reviews")
        items = _judged(files.source(data, whole=True), records, judge, warnings)
        return Graded(items, protocol, warnings.all(), judge.model)

    def figures(self, items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
        found: dict[str, dict[str, Figure]] = {"score": {}, "gpt4": {}, "model": {}}
        scores = np.array([_scores(i) for i in items], np.float64).reshape(-1, 2)
        present = {label for i in items for label in i.labels}
        known = [c for c in CATEGORIES if c in present]
        for category in ("", *known, *sorted(present - set(known))):
            chosen = np.array([not category or category in i.labels for i in items], np.bool_)
            gpt4, model = (mean(side, chosen, 10.0) for side in scores.T)
            # LLaVA rounds the two means before it divides and prints.
            rounded = [round(x, 3) for x in scores[chosen].mean(0).tolist()]
            relative = rounded[1] / rounded[0] * 100 if rounded[0] else 0.0
            name = f".{category}" if category else ""
            found["score"]["score" + name] = printed(ratio(scores[:, 1] * chosen, scores[:, 0] * chosen), relative)
            found["gpt4"]["gpt4" + name] = printed(gpt4, rounded[0] * 10)
            found["model"]["model" + name] = printed(model, rounded[1] * 10)
        return found["score"] | found["gpt4"] | found["model"]


def _scores(item: ScoredAnswer) -> tuple[float, float]:
    read = item.parsed.split()
    return (float(read[0]), float(read[1])) if read else UNREAD


def _reviewed(truths: list[Truth], records: Records, warnings: Warnings) -> list[ScoredAnswer]:
    known = {t.key: (n, t) for n, t in enumerate(truths)}
    reviews = files.reviews(records, warnings)
    reviewed = {r.id for r in reviews}
    for missing in (i for i in known if i not in reviewed):
        warnings.add("questions without a review", f"question {missing} has no review; it is left out")
    found = []
    for r in sorted(reviews, key=lambda r: known[r.id][0] if r.id in known else len(known)):
        if r.id not in known:
            warnings.add(
                "reviews of no question", f"review of {r.id}, which is not among the questions; it still counts"
            )
        image = known[r.id][1].group if r.id in known else r.id
        labels = (r.category,) if r.category else ()
        found.append(ScoredAnswer(r.id, "", f"{r.scores[0]} {r.scores[1]}", r.scores[1], image, "", labels))
    return found


def _judged(truths: list[Truth], records: Records, judge: Judge, warnings: Warnings) -> list[ScoredAnswer]:
    lines = answer_lines(records, ("question_id",), ("text",), warnings)
    # LLaVA's script stops at the last answer, and the mean is over those it read.
    said = match(lines, [t.key for t in truths], records.path, warnings, missing="it is left out")
    asked = [t for t in truths if t.key in said]
    replies = in_order(lambda t: _review(judge, t, said[t.key].text), asked)
    found = []
    for t, reply in zip(asked, replies, strict=True):
        read = files.read_review(reply)
        if read is None:
            warnings.add(
                "reviews without scores",
                f"question {t.id}: no two scores in the review's first line; both count as -1: {reply[:60]!r}",
            )
        found.append(t.outcome(said[t.key].text, f"{read[0]} {read[1]}" if read else "", (read or UNREAD)[1]))
    return found


def _review(judge: Judge, truth: Truth, answer: str) -> str:
    texts = judge_texts(__file__)
    content = (
        f"[Context]\n{truth.row['context']}\n\n[Question]\n{truth.text}\n\n"
        f"[Assistant 1]\n{truth.gold}\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\n{answer}\n\n[End of Assistant 2]\n\n"
        f"[System]\n{texts['rule']}\n\n"
    )
    messages = [{"role": "system", "content": texts["system"]}, {"role": "user", "content": content}]
    return judge.ask(messages, temperature=0.2, max_tokens=1024)
