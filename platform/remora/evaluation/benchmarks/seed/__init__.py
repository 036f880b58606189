"""SEED-Bench-1 (Li et al., arXiv 2307.16125): one letter of four, on pictures and on a video's middle frame.

Scored as in convert_seed_for_submission.py of haotian-liu/LLaVA c121f04: an answer is right if it is exactly the
letter, and a missing answer is wrong. `image` and `total` are two scales: Mipha's table uses the first, LLaVA-1.5's and
Bunny's the second. The leaderboard's own lines {question_id, prediction} are used unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import AnswerLine, Warnings, answer_lines, match
from remora.evaluation.benchmarks.files import field, find, image_folder, read_json, submission
from remora.evaluation.benchmarks.prompts import LETTER, llava_list, llava_questions, options
from remora.evaluation.benchmarks.protocol import RowBenchmark, Truth, breakdowns
from remora.evaluation.figures import Figure
from remora.evaluation.hub_tables import InParquet, parquet_files, parquet_rows, picture_counts
from remora.evaluation.question import Question, Shown
from remora.evaluation.report import ScoredAnswer

DIMENSIONS = (
    "Scene Understanding", "Instance Identity", "Instance Attributes", "Instance Location", "Instances Counting",
    "Spatial Relation", "Instance Interaction", "Visual Reasoning", "Text Understanding", "Action Recognition",
    "Action Prediction", "Procedure Understanding",
)  # fmt: skip
"""By question_type_id from 1, for files without their own names (the hub's)."""
COLUMNS = ("question_id", "question", "answer", "choice_a", "choice_b", "choice_c", "choice_d", "data_type", "data_id")


class SEED(RowBenchmark):
    headline = "total"
    fields = ("text", "prediction")
    suffix = LETTER

    def truths(self, data: Path) -> list[Truth]:
        if files := parquet_files(data, "test"):
            rows = zip(parquet_rows(files, ("image",), COLUMNS), picture_counts(files, "image"), strict=True)
            return [_of_hub(row, count) for row, count in rows]
        return _of_file(data)

    def questions(self, data: Path) -> list[Question]:
        if path := llava_list(data, "*seed-bench.jsonl", "*seed_bench.jsonl"):
            return llava_questions(path, image_folder(data, "SEED-Bench-image").parent, self.max_new_tokens)
        return super().questions(data)

    def asked(self, truth: Truth) -> Question:
        # As in LLaVA's file, ids of questions about pictures are numbers.
        number = truth.key.isdecimal() and len(truth.key) < 19
        return replace(super().asked(truth), id=int(truth.key) if number else truth.id)

    def said(self, answers: Path, truths: Sequence[Truth], warnings: Warnings) -> dict[str, AnswerLine]:
        lines = [replace(a, id=_key(a.id)) for a in answer_lines(answers, self.keys, self.fields, warnings)]
        return match(lines, [t.key for t in truths], answers, warnings)

    def read(self, answer: AnswerLine, truth: Truth) -> tuple[str, float]:
        return answer.text if answer.text in ("A", "B", "C", "D") else "", float(answer.text == truth.gold)

    def figures(self, items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
        named = dict.fromkeys(f"dimension.{d}" for d in DIMENSIONS) | dict.fromkeys(i.labels[1] for i in items)
        return breakdowns(items, ("image", "video", *named), "total", prefix="")

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """The leaderboard's JSON lines, one per question in the data's order; empty for a missing answer."""
        truths = self.truths(data)
        said = self.said(answers, truths, Warnings())
        rows = [{"question_id": t.id, "prediction": said[t.key].text if t.key in said else ""} for t in truths]
        return submission(folder / "seed-bench.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _key(identity: str) -> str:
    """Ids of questions about pictures are numbers in LLaVA's lines and text in the leaderboard's."""
    try:
        return str(int(identity))
    except ValueError:
        return identity


def _of_file(data: Path) -> list[Truth]:
    path = find(data, "SEED-Bench.json", "SEED-Bench*.json", what="SEED-Bench's questions")
    whole = read_json(path, object)
    names = dict(enumerate(DIMENSIONS, 1))
    if isinstance(whole, dict):
        own = whole.get("question_type")
        names |= {n: str(name) for name, n in own.items() if isinstance(n, int)} if isinstance(own, dict) else {}
        whole = whole.get("questions")
    if not isinstance(whole, list) or not whole:
        raise DataError(f"{path}: no questions in it; expected {{questions: […], question_type: {{…}}}}")
    images, frames = image_folder(data, "SEED-Bench-image"), image_folder(data, "SEED-Bench-video-image")
    found = []
    for number, row in enumerate(whole, 1):
        where = f"{path.name}: question {number}"
        dimension = field(row, "question_type_id", int, where)
        frame = frames / f"{dimension}_{row.get('question_id')}.png"
        picture = frame if row.get("data_type") == "video" else images / str(row.get("data_id"))
        found.append(_truth(row, names.get(dimension, str(dimension)), Picture(str(picture)), where))
    return found


def _of_hub(row: dict[str, Any], count: int) -> Truth:
    """A truth of the hub's row; of a video, the middle frame, as in LLaVA's extract_video_frames.py."""
    shown: InParquet = row["image"]
    dimension = int(str(row.get("question_type_id"))) if str(row.get("question_type_id")).isdecimal() else 0
    name = DIMENSIONS[dimension - 1] if 1 <= dimension <= len(DIMENSIONS) else str(dimension)
    return _truth(row, name, replace(shown, nth=max(0, count - 1) // 2), str(shown))


def _truth(row: dict[str, Any], dimension: str, picture: Shown, where: str) -> Truth:
    for column in COLUMNS:
        if not isinstance(row.get(column), (str, int, float)):
            raise DataError(f"{where}: {column} is {str(row.get(column))[:60]!r}; download the file again")
    said = {column: str(row[column]) for column in COLUMNS}
    text = f"{said['question']}\n{options([said[f'choice_{c}'] for c in 'abcd'])}"
    labels = (said["data_type"], f"dimension.{dimension}")
    key = _key(said["question_id"])
    return Truth(row["question_id"], text, said["answer"], said["data_id"], labels, picture, key)
