"""VQAv2 (Goyal et al., arXiv 1612.00837): one word or phrase, scored by how many of ten people said it.

The rules are vqaEval.py's (GT-Vision-Lab/VQA, a013f00), with LLaVA's conversion of its lines first (LLaVA c121f04,
scripts/convert_vqav2_for_submission.py). The papers print test-dev, which EvalAI's challenge 830 scores; a split with
annotations is scored here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.answers import Warnings, match, read_records
from remora.evaluation.benchmarks.files import field, find, question_id, rows, submission, unique
from remora.evaluation.benchmarks.people import PeoplesBenchmark, commonest, converted, people, picture
from remora.evaluation.benchmarks.prompts import SHORT, llava_list, llava_questions
from remora.evaluation.benchmarks.protocol import Truth
from remora.evaluation.hub_tables import InParquet, parquet_files
from remora.evaluation.question import Question, Shown
from remora.evaluation.short_answers import agreement, plain, vqa

ANNOTATIONS = ("v2_mscoco_val2014_annotations.json", "v2_mscoco_*_annotations.json", "*annotations*.json")
QUESTIONS = tuple(f"v2_OpenEnded_mscoco_{s}_questions.json" for s in ("val2014", "test-dev2015", "test2015", "*"))
ALL_OF_TEST = ("*vqav2_mscoco_test2015.jsonl", "v2_OpenEnded_mscoco_test2015_questions.json")


class VQAv2(PeoplesBenchmark):
    empty_is_scored = True

    def questions(self, data: Path) -> list[Question]:
        if path := llava_list(data, "*vqav2_mscoco_*.jsonl"):
            return llava_questions(path, path.parent / _subset(path), 128)
        split = next((s for s in ("validation", "testdev", "test") if parquet_files(data, s)), "validation")
        path, held = rows(data, QUESTIONS, "questions", split, "VQAv2's questions")
        asked = []
        for i, q in unique(path, held, "question_id").items():
            where = f"{path}: question {i}"
            shown, text = (_picture(q, path, where),), field(q, "question", str, where) + SHORT
            asked.append(Question(question_id(q), text, shown, 128, str(q.get("image_id"))))
        return asked

    def truths(self, data: Path) -> list[Truth]:
        if data.suffix == ".json" and "questions" in data.name:
            data = find(data.parent, *ANNOTATIONS, what="VQAv2's annotations")
        path, held = rows(data, ANNOTATIONS, "annotations", "validation", "VQAv2's annotations")
        return [_truth(q, people(q, f"{path}: question {i}")) for i, q in unique(path, held, "question_id").items()]

    def read(self, text: str, truth: Truth) -> tuple[str, float]:
        return outcome(text, truth.row["people"])

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """Every question of test2015, with empty strings for missing answers; EvalAI requires all."""
        path = find(data, *ALL_OF_TEST, what="the list of all questions of test2015")
        if path.suffix == ".jsonl":
            held: list[dict[str, object]] = [{"question_id": q.id} for q in llava_questions(path, path.parent, 128)]
        else:
            held = rows(path, ALL_OF_TEST, "questions", "test", "VQAv2's questions")[1]
        asked = unique(path, held, "question_id")
        records = read_records(answers, Warnings())
        lines = self.lines(records, (), None, Warnings())
        given = converted(records, match(lines, asked, answers, Warnings()))
        filed = [{"question_id": q["question_id"], "answer": given.get(i, "")} for i, q in asked.items()]
        return submission(folder / f"{self.name}.json", filed)


def _truth(q: Mapping[str, object], ten: list[dict[str, object]]) -> Truth:
    kind = q.get("answer_type")
    labels = [kind] if isinstance(kind, str) else []
    if isinstance(q.get("question_type"), str):
        labels.append(f"question_type.{q['question_type']}")
    gold = q.get("multiple_choice_answer")
    gold = gold if isinstance(gold, str) else commonest([str(p["answer"]) for p in ten])
    return Truth(question_id(q), "", gold, str(q.get("image_id", "")), tuple(labels), row={"people": ten})


def outcome(text: str, ten: Sequence[Mapping[str, object]]) -> tuple[str, float]:
    """The text that vqaEval.py compares and the score: it normalises only if people differ."""
    answers = [plain(str(p["answer"])) for p in ten]
    read = plain(text)
    if len(set(answers)) > 1:
        answers, read = [vqa(a) for a in answers], vqa(read)
    return read, agreement(read, answers, [{**p, "answer": a} for p, a in zip(ten, answers, strict=True)])


def _subset(questions: Path) -> str:
    """COCO's folder of pictures, from the split in a questions file's name; test-dev uses test's."""
    return next((s for s in ("val2014", "train2014") if s in questions.name), "test2015")


def _picture(q: Mapping[str, object], path: Path, where: str) -> Shown:
    if isinstance(shown := q.get("image"), InParquet):
        return shown
    image, subset = str(q.get("image_id")), _subset(path)
    if not image.isdecimal() or len(image) > 12:
        raise DataError(f"{where}: no image_id: {image[:60]!r}; download the file again")
    return picture(q, path, subset, f"COCO_{subset}_{int(image):012d}.jpg")
