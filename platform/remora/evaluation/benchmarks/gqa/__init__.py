"""GQA, test-dev balanced (Hudson and Manning, arXiv 1902.09506): exact match on one word or phrase.

LLaVA's answers go through its conversion first (full stops off the end, lower case; convert_gqa_for_eval.py of
haotian-liu/LLaVA c121f04), as its script does before GQA's eval.py; GQA's own result format
`[{questionId, prediction}]` is used unchanged. Figures are those of eval.py in the copy that LLaVA's instructions
describe, without those that test-dev has no files for (BAAI-DCAI/Bunny 08273ac, eval/gqa/eval_gqa.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import AnswerLine
from remora.evaluation.benchmarks.files import field, find, image_folder, read_json, root
from remora.evaluation.benchmarks.gqa.chi_square import distribution
from remora.evaluation.benchmarks.protocol import RowBenchmark, Truth, breakdowns
from remora.evaluation.figures import Figure
from remora.evaluation.hub_tables import parquet_files, parquet_rows
from remora.evaluation.report import ScoredAnswer

WITHOUT_STEP = ("exist", "query: name", "choose name")
"""Operations that only output the result, which eval.py does not count as a step of reasoning."""


class GQA(RowBenchmark):
    lists = ("*gqa_testdev_balanced.jsonl",)
    keys, fields = ("question_id", "questionId"), ("text", "prediction")

    def truths(self, data: Path) -> list[Truth]:
        images = image_folder(data, "images")
        hub = parquet_files(root(data), "testdev", "testdev_balanced_images")
        shown = {str(row["id"]): row["image"] for row in parquet_rows(hub, ("image",), ("id",))}
        found = []
        for i, q in _balanced(data).items():
            image = str(q["imageId"])
            picture = shown.get(image) or Picture(str(images / f"{image}.jpg"))
            found.append(Truth(i, str(q["question"]), str(q["answer"]), image, _labels(q), picture))
        return found

    def read(self, answer: AnswerLine, truth: Truth) -> tuple[str, float]:
        read = answer.text.rstrip(".").lower() if answer.llava else answer.text
        return read, float(read == truth.gold)

    def figures(self, items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
        labels = {label for i in items for label in i.labels if not label.startswith("global.")}
        groups = [next((label for label in i.labels if label.startswith("global.")), None) for i in items]
        return breakdowns(items, sorted(labels, key=_by_number)) | distribution(
            groups, [i.gold for i in items], [i.parsed for i in items]
        )


def _by_number(label: str) -> tuple[str, int, str]:
    kind, _, value = label.partition(".")
    return kind, len(value) if value.isdecimal() else 0, value


def _labels(question: dict[str, object]) -> tuple[str, ...]:
    """The breakdowns of eval.py, as far as the question has their fields (the hub's may lack some)."""
    found = [f"words.{len(str(question['question']).split())}"]
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


def _balanced(data: Path) -> dict[str, dict[str, object]]:
    """The balanced questions by id, from GQA's own file or from the hub's."""
    rows: dict[str, dict[str, object]]
    if files := parquet_files(data, "testdev", "testdev_balanced_instructions"):
        path = files[0]
        needed = ("id", "imageId", "question", "answer")
        rows = {str(r["id"]): r | {"imageId": str(r["imageId"])} for r in parquet_rows(files, needed=needed)}
    else:
        path = find(data, "testdev_balanced_questions.json", "*questions.json", what="GQA's questions")
        rows = read_json(path, dict)
    for i, q in rows.items():
        for name in ("question", "answer", "imageId"):
            field(q, name, str, f"{path.name}: question {i[:80]!r}")
    if not (balanced := {i: q for i, q in rows.items() if q.get("isBalanced", True)}):
        raise DataError(f"{path}: no balanced question in it; expected testdev_balanced_questions.json")
    return balanced
