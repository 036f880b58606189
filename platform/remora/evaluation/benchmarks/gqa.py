"""GQA, test-dev balanced (Hudson and Manning, arXiv 1902.09506): exact match on one word or phrase.

LLaVA's answers go through its conversion first (full stop off, lower case), as its script does before GQA's eval.py;
GQA's own result format `[{questionId, prediction}]` is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import Warnings, answered, by_id, find, parse, read_records, read_text
from remora.evaluation.asking import Question, parquet_files, parquet_rows
from remora.evaluation.benchmarks.base import Benchmark
from remora.evaluation.benchmarks.prompts import SHORT, llava_questions
from remora.evaluation.figures import Figure, mean
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, Item


class GQA(Benchmark):
    name, title, headline = "gqa", "GQA", "accuracy"

    def questions(self, data: Path) -> list[Question]:
        if found := sorted(data.rglob("llava_gqa_testdev_balanced.jsonl")):
            return llava_questions(found[0], data / "images", max_new_tokens=128)
        if rows := parquet_files(data, "testdev", "testdev_balanced_instructions"):
            pictures = parquet_rows(parquet_files(data, "testdev", "testdev_balanced_images"), ("image",))
            shown = {row["id"]: row["image"] for row in pictures}
            return [
                Question(r["id"], r["question"] + SHORT, (shown[r["imageId"]],), 128, str(r["imageId"]))
                for r in parquet_rows(rows)
            ]
        return [
            Question(
                i, q["question"] + SHORT, (Picture(str(data / "images" / f"{q['imageId']}.jpg")),), 128, q["imageId"]
            )
            for i, q in _balanced(data).items()
        ]

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        asked = _balanced(data)
        records = read_records(answers, warnings)
        said = by_id(records, ("question_id", "questionId"), ("text", "prediction"), warnings)
        converted = {str(r.get("question_id", r.get("questionId"))): "text" in r for r in records.objects}
        answered(asked, said, warnings)
        items = []
        for i, q in asked.items():
            text = said.get(i, "")
            read = text.rstrip(".").lower() if converted.get(i) else text
            kinds = q.get("types", {})
            labels: tuple[str, ...] = ("open" if kinds.get("structural") == "query" else "binary",)
            labels += tuple(f"{k}.{kinds[k]}" for k in ("structural", "semantic") if k in kinds)
            items.append(Item(i, text, read, float(read == q["answer"]), str(q["imageId"]), q["answer"], labels))
        return Graded(items, protocol, warnings.all())

    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
        scores = [i.score for i in items]
        labels = sorted({label for i in items for label in i.labels})
        return {"accuracy": mean(scores)} | {
            f"accuracy.{label}": mean(scores, [label in i.labels for i in items]) for label in labels
        }


def _balanced(data: Path) -> dict[str, dict[str, Any]]:
    """The balanced questions of GQA's own file by id."""
    path = find(data, "testdev_balanced_questions.json", "*questions.json", what="GQA's questions")
    try:
        raw = parse(read_text(path))
    except ValueError as e:
        raise DataError(f"{path}: not JSON ({e})") from None
    return {i: q for i, q in raw.items() if q.get("isBalanced", True)}
