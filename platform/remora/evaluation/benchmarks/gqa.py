"""GQA, test-dev balanced (Hudson and Manning, arXiv 1902.09506): exact match on one word or phrase.

LLaVA's answers go through its conversion first (full stops off the end, lower case; convert_gqa_for_eval.py of
haotian-liu/LLaVA c121f04), as its script does before GQA's eval.py; GQA's own result format
`[{questionId, prediction}]` is taken as it is. Figures are those of eval.py in the copy that LLaVA's instructions
describe, without what test-dev has no files for (BAAI-DCAI/Bunny 08273ac, eval/gqa/eval_gqa.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import Warnings, find
from remora.evaluation.asking import Question
from remora.evaluation.benchmarks.base import Benchmark
from remora.evaluation.benchmarks.chi_square import distribution
from remora.evaluation.benchmarks.layout import (
    field,
    first_file,
    hub_files,
    hub_rows,
    image_folder,
    latest,
    read_answers,
    read_json,
    root,
)
from remora.evaluation.benchmarks.prompts import SHORT, llava_questions
from remora.evaluation.figures import Figure, mean
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, Item

WITHOUT_STEP = ("exist", "query: name", "choose name")
"""Operations that only say the result, which eval.py does not count as a step of reasoning."""


class GQA(Benchmark):
    name, title, headline = "gqa", "GQA", "accuracy"

    def questions(self, data: Path) -> list[Question]:
        images = image_folder(data, "images")
        if found := first_file(data, "*gqa_testdev_balanced.jsonl"):
            return llava_questions(found, images, max_new_tokens=128)
        balanced = _balanced(data)
        shown: dict[str, Any] = {i["imageId"]: Picture(str(images / f"{i['imageId']}.jpg")) for i in balanced.values()}
        if files := hub_files(root(data), "testdev", "testdev_balanced_images"):
            shown |= {str(row["id"]): row["image"] for row in hub_rows(files, ("id", "image"), "image")}
        return [
            Question(i, q["question"] + SHORT, (shown[q["imageId"]],), 128, q["imageId"]) for i, q in balanced.items()
        ]

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        asked = _balanced(data)
        lines = read_answers(answers, ("question_id", "questionId"), ("text", "prediction"), warnings)
        said = latest(lines, asked, warnings)
        items = []
        for i, q in asked.items():
            a = said.get(i)
            text = a.text if a else ""
            read = text.rstrip(".").lower() if a and a.llava else text
            right = a is not None and read == q["answer"]
            items.append(Item(i, text, read, float(right), q["imageId"], q["answer"], _labels(q)))
        return Graded(items, protocol, warnings.all())

    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
        scores = [i.score for i in items]
        labels = sorted({label for i in items for label in i.labels if not label.startswith("global.")}, key=_by_number)
        found = {"accuracy": mean(scores)}
        found |= {f"accuracy.{label}": mean(scores, [label in i.labels for i in items]) for label in labels}
        groups = [next((label for label in i.labels if label.startswith("global.")), None) for i in items]
        return found | distribution(groups, [i.gold for i in items], [i.parsed for i in items])


def _by_number(label: str) -> tuple[str, int, str]:
    kind, _, value = label.partition(".")
    return kind, len(value) if value.isdecimal() else 0, value


def _labels(question: dict[str, Any]) -> tuple[str, ...]:
    """The breakdowns of eval.py, as far as the question says what they need (the hub's may be without)."""
    found = [f"words.{len(question['question'].split())}"]
    types = question.get("types")
    if isinstance(types, dict):
        found.append("open" if types.get("structural") == "query" else "binary")
        found += [f"{kind}.{types[kind]}" for kind in ("structural", "semantic") if types.get(kind)]
    steps = question.get("semantic")
    if isinstance(steps, list) and all(isinstance(s, dict) for s in steps):
        said = [f"{s.get('operation')}: {s.get('argument')}" for s in steps]
        found.append(f"steps.{sum(not any(w in s for w in WITHOUT_STEP) for s in said)}")
    groups = question.get("groups")
    if isinstance(groups, dict) and groups.get("global") is not None:
        found.append(f"global.{groups['global']}")
    return tuple(found)


def _balanced(data: Path) -> dict[str, dict[str, Any]]:
    """The balanced questions by id, from GQA's own file or from the hub's."""
    rows: dict[str, Any]
    if files := hub_files(data, "testdev", "testdev_balanced_instructions"):
        path = files[0]
        columns = ("id", "imageId", "question", "answer")
        rows = {str(r["id"]): r | {"imageId": str(r["imageId"])} for r in hub_rows(files, columns)}
    else:
        path = find(data, "testdev_balanced_questions.json", "*questions.json", what="GQA's questions")
        rows = read_json(path, dict)
    for i, q in rows.items():
        for name in ("question", "answer", "imageId"):
            field(q, name, str, f"{path.name}: question {i[:80]!r}")
    if not (balanced := {i: q for i, q in rows.items() if q.get("isBalanced", True)}):
        raise DataError(f"{path}: no balanced question in it; expected testdev_balanced_questions.json")
    return balanced
