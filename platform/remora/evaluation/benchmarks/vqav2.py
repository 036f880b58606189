"""VQAv2 (Goyal et al., arXiv 1612.00837): one word or phrase, scored by how many of ten people said it.

The rules are vqaEval.py's (GT-Vision-Lab/VQA, a013f00), with LLaVA's conversion of its lines first (LLaVA c121f04,
scripts/convert_vqav2_for_submission.py). The papers print test-dev, which EvalAI's challenge 830 scores; scored here is
a split that has annotations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import Warnings, answered, by_id, find
from remora.evaluation.asking import InParquet, Question, parquet_files
from remora.evaluation.benchmarks.base import Benchmark, breakdowns
from remora.evaluation.benchmarks.people import (
    LLAVA,
    PROTOCOLS,
    belong,
    by_format,
    commonest,
    people,
    pictures_folder,
    read_answers,
    rows,
    say_conversion,
    text_of,
    unique,
    write,
)
from remora.evaluation.benchmarks.prompts import SHORT, llava_questions
from remora.evaluation.figures import Figure
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, Item
from remora.evaluation.words import agreement, evalai, plain, vqa

ANNOTATIONS = ("v2_mscoco_val2014_annotations.json", "v2_mscoco_*_annotations.json", "*annotations*.json")
QUESTIONS = tuple(f"v2_OpenEnded_mscoco_{s}_questions.json" for s in ("val2014", "test-dev2015", "test2015", "*"))
ALL_OF_TEST = ("*vqav2_mscoco_test2015.jsonl", "v2_OpenEnded_mscoco_test2015_questions.json")


class VQAv2(Benchmark):
    name, title, headline = "vqav2", "VQAv2", "accuracy"
    protocols = PROTOCOLS

    def questions(self, data: Path) -> list[Question]:
        if found := [data] if data.suffix == ".jsonl" else sorted(data.rglob("*vqav2_mscoco_*.jsonl")):
            return llava_questions(found[0], found[0].parent / _subset(found[0]), max_new_tokens=128)
        split = next((s for s in ("validation", "testdev", "test") if parquet_files(data, s)), "validation")
        path, held = rows(data, QUESTIONS, "questions", split, "VQAv2's questions")
        asked = []
        for i, q in unique(path, held, "question_id").items():
            where = f"{path}: question {i}"
            image, shown = str(q.get("image_id")), q.get("image")
            shown = shown if isinstance(shown, InParquet) else _picture(path, image, where)
            asked.append(Question(q["question_id"], text_of(q, "question", where) + SHORT, (shown,), 128, image))
        return asked

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        if data.suffix == ".json" and "questions" in data.name:
            data = find(data.parent, *ANNOTATIONS, what="VQAv2's annotations")
        path, held = rows(data, ANNOTATIONS, "annotations", "validation", "VQAv2's annotations")
        asked = unique(path, held, "question_id")
        records = read_answers(answers, warnings)
        chosen = by_format(protocol, records)
        say_conversion(protocol, chosen, warnings)
        said = by_id(records, ("question_id",), ("text", "answer"), warnings)
        belong(asked, said, answers)
        answered(asked, said, warnings)
        if chosen == LLAVA and asked.keys() - said.keys():
            warnings.add("conventions", "a missing answer is scored as an empty one, which LLaVA submits in its place")
        items = []
        for i, q in asked.items():
            ten = people(q, f"{path}: question {i}")
            text = said.get(i, "")
            read, score = outcome(evalai(text) if chosen == LLAVA else text, ten)
            if i not in said and chosen != LLAVA:
                score = 0.0
            labels = [q["answer_type"]] if isinstance(q.get("answer_type"), str) else []
            if isinstance(q.get("question_type"), str):
                labels.append(f"question_type.{q['question_type']}")
            gold = q.get("multiple_choice_answer")
            gold = gold if isinstance(gold, str) else commonest([p["answer"] for p in ten])
            items.append(Item(q["question_id"], text, read, score, str(q.get("image_id", "")), gold, tuple(labels)))
        return Graded(items, chosen, warnings.all())

    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
        return breakdowns(items)

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """Every question of test2015, with an empty answer where there is none, as EvalAI takes no less."""
        path = find(data, *ALL_OF_TEST, what="the list of all questions of test2015")
        warnings = Warnings()
        if path.suffix == ".jsonl":
            held = [{"question_id": q.id} for q in llava_questions(path, path.parent, max_new_tokens=128)]
        else:
            held = rows(path, ALL_OF_TEST, "questions", "test", "VQAv2's questions")[1]
        asked = unique(path, held, "question_id")
        records = read_answers(answers, warnings)
        said = by_id(records, ("question_id",), ("text", "answer"), warnings)
        belong(asked, said, answers)
        convert = evalai if by_format(PROTOCOLS[0], records) == LLAVA else str
        given = {i: convert(text) for i, text in said.items()}
        return write(
            folder, self.name, [{"question_id": q["question_id"], "answer": given.get(i, "")} for i, q in asked.items()]
        )


def outcome(text: str, ten: Sequence[Mapping[str, Any]]) -> tuple[str, float]:
    """What vqaEval.py compares and the score: it normalises only where people differ."""
    answers = [plain(p["answer"]) for p in ten]
    read = plain(text)
    if len(set(answers)) > 1:
        answers, read = [vqa(a) for a in answers], vqa(read)
    return read, agreement(read, answers, [{**p, "answer": a} for p, a in zip(ten, answers, strict=True)])


def _subset(questions: Path) -> str:
    """COCO's folder of pictures by the split in a questions file's name; test-dev's are test's."""
    return next((s for s in ("val2014", "train2014") if s in questions.name), "test2015")


def _picture(path: Path, image: str, where: str) -> Picture:
    if not image.isdecimal() or len(image) > 12:
        raise DataError(f"{where}: no image_id: {image[:60]!r}; download the file again")
    subset = _subset(path)
    return Picture(str(pictures_folder(path, subset) / f"COCO_{subset}_{int(image):012d}.jpg"))
