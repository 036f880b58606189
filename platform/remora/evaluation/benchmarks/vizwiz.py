"""VizWiz-VQA (Gurari et al., arXiv 1802.08218): questions of blind people, one word or phrase, ten people's answers.

The rules are those of the VizWiz API's vqaEval.py: the answer is normalised, what people said is not. LLaVA converts
its lines before (LLaVA c121f04, scripts/convert_vizwiz_for_submission.py). The papers print test-dev, which EvalAI's
challenge 2185 scores; scored here is a split that has answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remora.data.pictures import Picture
from remora.evaluation.answers import Warnings, answered
from remora.evaluation.asking import InParquet, Question, parquet_files
from remora.evaluation.benchmarks.answerable import GOLD, SAID, answerability, marks
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
from remora.evaluation.benchmarks.vizwiz_images import by_image, llava_file
from remora.evaluation.figures import Figure
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, Item
from remora.evaluation.words import agreement, evalai, vizwiz

UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
VAL = ("val.json", "*_val*.json")
ANY = (*VAL, "test.json", "train.json")


class VizWiz(Benchmark):
    name, title, headline = "vizwiz", "VizWiz", "accuracy"
    protocols = PROTOCOLS

    def questions(self, data: Path) -> list[Question]:
        if found := llava_file(data, "llava_test.jsonl", "llava_val.jsonl"):
            pictures = found.parent / found.stem.rpartition("_")[2]
            return llava_questions(found, pictures, max_new_tokens=128)
        split = next((s for s in ("val", "test") if parquet_files(data, s)), "val")
        path, held = rows(data, ANY, "data", split, "VizWiz's questions")
        asked = []
        for image, q in _by_name(path, held).items():
            shown = q.get("image")
            if not isinstance(shown, InParquet):
                # VizWiz_val_00000000.jpg is in val/
                shown = Picture(str(pictures_folder(path, "_".join(image.split("_")[1:-1])) / image))
            prompt = text_of(q, "question", f"{path}: {image}") + UNANSWERABLE + SHORT
            asked.append(Question(image, prompt, (shown,), 128, image))
        return asked

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        path, held = rows(data, VAL, "data", "val", "VizWiz's answers")
        asked = _by_name(path, held)
        records = read_answers(answers, warnings)
        chosen = by_format(protocol, records)
        say_conversion(protocol, chosen, warnings)
        said = by_image(records, asked, questions or llava_file(data, "llava_val.jsonl"), warnings)
        belong(asked, said, answers)
        answered(asked, {image: text for image, (text, _) in said.items()}, warnings)
        marked = marks(asked, {image: records.objects[n] for image, (_, n) in said.items()}, warnings)
        items = []
        for image, q in asked.items():
            ten = [p["answer"] for p in people(q, f"{path}: {image}")]
            text, read, score = said[image][0] if image in said else "", "", 0.0
            if image in said:
                read = vizwiz(evalai(text) if chosen == LLAVA else text)
                score = agreement(read, ten)
            kind = q.get("answer_type", q.get("category"))
            labels = (kind,) if isinstance(kind, str) else ()
            items.append(Item(image, text, read, score, image, commonest(ten), labels + marked.get(image, ())))
        return Graded(items, chosen, warnings.all())

    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
        return breakdowns(items, lambda label: not label.startswith((GOLD, SAID))) | answerability(items)

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """[{image, answer}] for every question, with an empty answer where there is none."""
        warnings = Warnings()
        if found := llava_file(data, "llava_test.jsonl"):
            asked: Mapping[str, Any] = {q.group: {} for q in llava_questions(found, found.parent, max_new_tokens=128)}
        else:
            asked = _by_name(*rows(data, ("test.json", *VAL), "data", "test", "VizWiz's questions"))
        records = read_answers(answers, warnings)
        said = by_image(records, asked, found, warnings)
        belong(asked, said, answers)
        convert = evalai if by_format(PROTOCOLS[0], records) == LLAVA else str
        given = {image: convert(text) for image, (text, _) in said.items()}
        return write(folder, self.name, [{"image": image, "answer": given.get(image, "")} for image in asked])


def _by_name(path: Path, held: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Questions by the file name of their picture: of each there is one. The hub's id is that name."""
    key = "question_id" if held and isinstance(held[0].get("image"), InParquet) else "image"
    return unique(path, [dict(q) for q in held], key)
