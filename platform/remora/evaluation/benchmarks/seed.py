"""SEED-Bench-1 (Li et al., arXiv 2307.16125): one letter of four, on pictures and on a video's middle frame.

Scored as in convert_seed_for_submission.py of haotian-liu/LLaVA c121f04: an answer is right if it is the letter and
nothing else, and an answer that is missing is wrong. `image` and `total` are two scales: Mipha's table is on the one,
LLaVA-1.5's and Bunny's on the other. The leaderboard's own lines {question_id, prediction} are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import Warnings, find
from remora.evaluation.asking import InParquet, Question, Shown
from remora.evaluation.benchmarks.base import Benchmark
from remora.evaluation.benchmarks.layout import (
    Answer,
    field,
    first_file,
    hub_files,
    hub_rows,
    image_folder,
    latest,
    picture_counts,
    read_answers,
    read_json,
)
from remora.evaluation.benchmarks.prompts import LETTER, llava_questions, options
from remora.evaluation.figures import Figure, mean
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, Item

DIMENSIONS = (
    "Scene Understanding", "Instance Identity", "Instance Attributes", "Instance Location", "Instances Counting",
    "Spatial Relation", "Instance Interaction", "Visual Reasoning", "Text Understanding", "Action Recognition",
    "Action Prediction", "Procedure Understanding",
)  # fmt: skip
"""By question_type_id from 1, for files without their own names (the hub's)."""
COLUMNS = ("question_id", "question", "answer", "choice_a", "choice_b", "choice_c", "choice_d", "data_type", "data_id")


@dataclass(frozen=True)
class Asked:
    """One question. `given` is its id as the file writes it, `id` as answers are compared."""

    id: str
    given: str | int
    text: str
    answer: str
    kind: str
    dimension: str
    group: str
    picture: Shown


class SEED(Benchmark):
    name, title, headline = "seed", "SEED-Bench", "total"

    def questions(self, data: Path) -> list[Question]:
        if found := first_file(data, "*seed-bench.jsonl", "*seed_bench.jsonl"):
            return llava_questions(found, image_folder(data, "SEED-Bench-image").parent, max_new_tokens=128)
        # As in LLaVA's file, pictures' ids are numbers.
        return [
            Question(int(q.id) if q.id.isdecimal() and len(q.id) < 19 else q.given, q.text, (q.picture,), 128, q.group)
            for q in _asked(data)
        ]

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        asked = _asked(data)
        said = _said(answers, asked, warnings)
        items = []
        for q in asked:
            text = said[q.id].text if q.id in said else ""
            labels = (q.kind, f"dimension.{q.dimension}")
            read = text if text in ("A", "B", "C", "D") else ""
            items.append(Item(q.given, text, read, float(q.id in said and text == q.answer), q.group, q.answer, labels))
        return Graded(items, protocol, warnings.all())

    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
        scores = [i.score for i in items]
        names = dict.fromkeys(f"dimension.{d}" for d in DIMENSIONS) | dict.fromkeys(i.labels[1] for i in items)
        found = {label: [label in i.labels for i in items] for label in ("image", "video", *names)}
        return {"total": mean(scores)} | {label: mean(scores, where) for label, where in found.items() if any(where)}

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """The leaderboard's JSON lines, one for each question in the data's order; empty where there is no answer."""
        asked = _asked(data)
        said = _said(answers, asked, Warnings())
        rows = [{"question_id": q.given, "prediction": said[q.id].text if q.id in said else ""} for q in asked]
        path = folder / "seed-bench.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [path]


def _said(answers: Path, asked: list[Asked], warnings: Warnings) -> dict[str, Answer]:
    lines = read_answers(answers, ("question_id",), ("text", "prediction"), warnings)
    named = [Answer(_id(a.id), a.text, a.llava, a.record, a.where) for a in lines]
    return latest(named, [q.id for q in asked], warnings)


def _id(identity: str) -> str:
    """Ids of pictures' questions are numbers in LLaVA's lines and their text in the leaderboard's."""
    try:
        return str(int(identity))
    except ValueError:
        return identity


def _asked(data: Path) -> list[Asked]:
    if files := hub_files(data, "test"):
        rows = zip(hub_rows(files, COLUMNS, "image"), picture_counts(files, "image"), strict=True)
        return [_of_hub(row, count) for row, count in rows]
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
        found.append(_question(row, names.get(dimension, str(dimension)), Picture(str(picture)), where))
    return found


def _of_hub(row: dict[str, Any], count: int) -> Asked:
    """Of a video's frames the one in the middle, which LLaVA's extract_video_frames.py takes."""
    where = str(row["image"])
    shown: InParquet = row["image"]
    middle = InParquet(shown.file, shown.row_group, shown.row, shown.column, max(0, count - 1) // 2)
    dimension = int(str(row.get("question_type_id"))) if str(row.get("question_type_id")).isdecimal() else 0
    name = DIMENSIONS[dimension - 1] if 1 <= dimension <= len(DIMENSIONS) else str(dimension)
    return _question(row, name, middle, where)


def _question(row: dict[str, Any], dimension: str, picture: Shown, where: str) -> Asked:
    for column in COLUMNS:
        if not isinstance(row.get(column), (str, int, float)):
            raise DataError(f"{where}: {column} is {str(row.get(column))[:60]!r}; download the file again")
    given = row["question_id"]
    said = {column: str(row[column]) for column in COLUMNS}
    text = f"{said['question']}\n{options([said[f'choice_{c}'] for c in 'abcd'])}{LETTER}"
    answer, kind, group = said["answer"], said["data_type"], said["data_id"]
    return Asked(_id(said["question_id"]), given, text, answer, kind, dimension, group, picture)
