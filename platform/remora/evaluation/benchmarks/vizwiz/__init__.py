"""VizWiz-VQA (Gurari et al., arXiv 1802.08218): questions of blind people, one word or phrase, ten people's answers.

The rules are those of the VizWiz API's vqaEval.py: the answer is normalised, people's answers are not. LLaVA converts
its lines first (LLaVA c121f04, scripts/convert_vizwiz_for_submission.py). The papers print test-dev, which EvalAI's
challenge 2185 scores; a split with answers is scored here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from remora.evaluation.answers import AnswerLine, Records, Warnings, answer_lines, match, read_records
from remora.evaluation.benchmarks.files import field, rows, submission, unique
from remora.evaluation.benchmarks.people import PeoplesBenchmark, commonest, converted, people, picture
from remora.evaluation.benchmarks.prompts import SHORT, llava_list, llava_questions
from remora.evaluation.benchmarks.protocol import Truth, breakdowns
from remora.evaluation.benchmarks.vizwiz.answerable import GOLD, SAID, answerability, marks
from remora.evaluation.benchmarks.vizwiz.images import by_image
from remora.evaluation.figures import Figure
from remora.evaluation.hub_tables import InParquet, parquet_files
from remora.evaluation.judge import Judge
from remora.evaluation.question import Question
from remora.evaluation.report import Graded, ScoredAnswer
from remora.evaluation.short_answers import agreement, vizwiz

UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
VAL = ("val.json", "*_val*.json")
ANY = (*VAL, "test.json", "train.json")


class VizWiz(PeoplesBenchmark):
    suffix = UNANSWERABLE + SHORT

    def questions(self, data: Path) -> list[Question]:
        if path := llava_list(data, "llava_test.jsonl", "llava_val.jsonl"):
            return llava_questions(path, path.parent / path.stem.rpartition("_")[2], self.max_new_tokens)
        split = next((s for s in ("val", "test") if parquet_files(data, s)), "val")
        return [self.asked(t) for t in _source(data, ANY, split, "VizWiz's questions")]

    def asked(self, truth: Truth) -> Question:
        field(truth.row, "question", str, truth.row["where"])
        return super().asked(truth)

    def truths(self, data: Path) -> list[Truth]:
        found = []
        for t in _source(data, VAL, "val", "VizWiz's answers"):
            ten = [str(p["answer"]) for p in people(t.row, t.row["where"])]
            kind = t.row.get("answer_type", t.row.get("category"))
            labels = (kind,) if isinstance(kind, str) else ()
            found.append(replace(t, gold=commonest(ten), labels=labels, row={**t.row, "people": ten}))
        return found

    def lines(
        self, records: Records, truths: Sequence[Truth], questions: Path | None, warnings: Warnings
    ) -> list[AnswerLine]:
        read = answer_lines(records, ("image", "question_id"), ("text", "answer"), warnings)
        return by_image(read, truths, questions, records.path, warnings)

    def read(self, text: str, truth: Truth) -> tuple[str, float]:
        read = vizwiz(text)
        return read, agreement(read, truth.row["people"])

    def labelled(self, truths: Sequence[Truth], said: Mapping[str, AnswerLine], warnings: Warnings) -> Sequence[Truth]:
        marked = marks(truths, said, warnings)
        return [replace(t, labels=t.labels + marked.get(t.key, ())) for t in truths]

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        return super().grade(data, answers, protocol, questions or llava_list(data, "llava_val.jsonl"), judge)

    def figures(self, items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
        labels = {label for i in items for label in i.labels if not label.startswith((GOLD, SAID))}
        return breakdowns(items, sorted(labels)) | answerability(items)

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """[{image, answer}] for every question, with an empty string for a missing answer."""
        if found := llava_list(data, "llava_test.jsonl"):
            images = dict.fromkeys(q.group for q in llava_questions(found, found.parent, 128))
            asked = [Truth(image, "") for image in images]
        else:
            asked = _source(data, ("test.json", *VAL), "test", "VizWiz's questions")
        records = read_records(answers, Warnings())
        lines = self.lines(records, asked, found, Warnings())
        given = converted(records, match(lines, [t.key for t in asked], answers, Warnings()))
        return submission(
            folder / f"{self.name}.json", [{"image": t.key, "answer": given.get(t.key, "")} for t in asked]
        )


def _source(data: Path, names: Sequence[str], split: str, what: str) -> list[Truth]:
    """Questions, identified by their picture's file name: each picture has one. The hub's id is that name."""
    path, held = rows(data, names, "data", split, what)
    key = "question_id" if held and isinstance(held[0].get("image"), InParquet) else "image"
    found = []
    for image, q in unique(path, held, key).items():
        text = q.get("question")
        # VizWiz_val_00000000.jpg is in val/
        shown = picture(q, path, "_".join(image.split("_")[1:-1]), image)
        row = {**q, "where": f"{path}: {image}"}
        found.append(Truth(image, text if isinstance(text, str) else "", group=image, picture=shown, row=row))
    return found
