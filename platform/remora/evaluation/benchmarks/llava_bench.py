"""LLaVA-Bench (In-the-Wild; Liu et al., arXiv 2304.08485): a judge scores GPT-4's answer and the model's side by side.

The rules are those of LLaVA's eval_gpt_review_bench.py, which asks, and summarize_gpt_review.py, which sums (at
c121f04). The figure of the papers is the model's mean score as a percentage of GPT-4's. Answers are LLaVA's lines, or
the lines of a review `{question_id, category, tuple}`, which need no judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from remora.errors import DataError
from remora.evaluation.answers import Records, Warnings, by_id, read_records
from remora.evaluation.asking import Question
from remora.evaluation.benchmarks import llava_bench_files
from remora.evaluation.benchmarks.base import Benchmark
from remora.evaluation.benchmarks.judging import TEXTS, message
from remora.evaluation.benchmarks.llava_bench_files import CATEGORIES, UNREAD, Entry
from remora.evaluation.figures import Figure, mean, printed, ratio
from remora.evaluation.judge import Judge, in_order
from remora.evaluation.report import Graded, Item


class LLaVABench(Benchmark):
    name, title, headline = "llava-bench", "LLaVA-Bench (In-the-Wild)", "score"
    judged, judge_model = True, "gpt-4-0314"

    def questions(self, data: Path) -> list[Question]:
        return [Question(e.id, e.text, (e.shown,), 1024, e.image) for e in llava_bench_files.entries(data, whole=False)]

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        records = read_records(answers, warnings)
        if llava_bench_files.is_reviewed(records):
            items = _reviewed(llava_bench_files.entries(data, whole=False), records, warnings)
            if not items:
                raise DataError(f"{answers}: no review in it; expected lines of question_id, category and tuple")
            return Graded(items, protocol, warnings.all())
        if judge is None:
            raise DataError(f"{answers}: LLaVA-Bench's answers need a judge; give one, or the file of its reviews")
        items = _judged(llava_bench_files.entries(data, whole=True), records, judge, warnings)
        if not items:
            raise DataError(f"{answers}: answers none of the questions of {data}; expected lines of question_id, text")
        return Graded(items, protocol, warnings.all(), judge.model)

    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
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


def _scores(item: Item) -> tuple[float, float]:
    read = item.parsed.split()
    return (float(read[0]), float(read[1])) if read else UNREAD


def _reviewed(entries: list[Entry], records: Records, warnings: Warnings) -> list[Item]:
    known = {str(e.id): (n, e) for n, e in enumerate(entries)}
    reviews = llava_bench_files.reviews(records, warnings)
    reviewed = {r.id for r in reviews}
    for missing in (i for i in known if i not in reviewed):
        warnings.add("questions without a review", f"question {missing} has no review; it is left out")
    found = []
    for r in sorted(reviews, key=lambda r: known[r.id][0] if r.id in known else len(known)):
        if r.id not in known:
            warnings.add("reviews of no question", f"review of {r.id}, which the questions do not hold; it counts")
        image = known[r.id][1].image if r.id in known else r.id
        labels = (r.category,) if r.category else ()
        found.append(Item(r.id, "", f"{r.scores[0]} {r.scores[1]}", r.scores[1], image, "", labels))
    return found


def _judged(entries: list[Entry], records: Records, judge: Judge, warnings: Warnings) -> list[Item]:
    said = by_id(records, ("question_id",), ("text",), warnings)
    for entry in entries:
        if str(entry.id) not in said:
            # LLaVA's script goes on as far as there are answers, and the mean is over those.
            warnings.add("questions without an answer", f"question {entry.id} has no answer; it is left out")
    known = {str(e.id) for e in entries}
    for identity in (i for i in said if i not in known):
        warnings.add("answers to no question", f"answer to {identity}, which the questions do not hold; left out")
    asked = [e for e in entries if str(e.id) in said]
    replies = in_order(lambda e: _review(judge, e, said[str(e.id)]), asked)
    found = []
    for e, reply in zip(asked, replies, strict=True):
        read = llava_bench_files.read_review(reply)
        if read is None:
            warnings.add(
                "reviews without scores",
                f"question {e.id}: no two scores in the review's first line; both count as -1: {reply[:60]!r}",
            )
        parsed = f"{read[0]} {read[1]}" if read else ""
        score = (read or UNREAD)[1]
        found.append(Item(str(e.id), said[str(e.id)], parsed, score, e.image, e.reference, (e.category,)))
    return found


def _review(judge: Judge, entry: Entry, answer: str) -> str:
    content = (
        f"[Context]\n{entry.context}\n\n[Question]\n{entry.text}\n\n"
        f"[Assistant 1]\n{entry.reference}\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\n{answer}\n\n[End of Assistant 2]\n\n"
        f"[System]\n{TEXTS['llava_bench_rule']}\n\n"
    )
    messages = [message("system", TEXTS["llava_bench_system"]), message("user", content)]
    return judge.ask(messages, temperature=0.2, max_tokens=1024)
