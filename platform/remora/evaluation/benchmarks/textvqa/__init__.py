"""TextVQA, validation (Singh et al., arXiv 1904.08920): one word or phrase read from a picture, ten people's answers.

LLaVA's lines are joined and scored as in its eval_textvqa.py (LLaVA c121f04): by picture and the question recovered
from the prompt, over the existing lines. The official format [{question_id, answer}] is scored over all questions.
Both normalise by EvalAIAnswerProcessor.

The prompt is that of LLaVA's question file: the question, only its first letter a capital, then Rosetta's OCR tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.answers import AnswerLine, Records, Warnings, match, read_records
from remora.evaluation.benchmarks.files import field, find, question_id, rows, submission, unique
from remora.evaluation.benchmarks.people import LLAVA, PeoplesBenchmark, commonest, people, picture
from remora.evaluation.benchmarks.prompts import SHORT, llava_list, llava_questions
from remora.evaluation.benchmarks.protocol import Truth
from remora.evaluation.judge import Judge
from remora.evaluation.question import Question
from remora.evaluation.report import Graded
from remora.evaluation.short_answers import agreement, evalai

VAL = ("TextVQA_0.5.1_val.json", "TextVQA_0*_val.json", "TextVQA_0*.json")
TOKENS = "TextVQA_Rosetta_OCR_v0.2_{split}.json"
TEN = 10


class TextVQA(PeoplesBenchmark):
    def questions(self, data: Path) -> list[Question]:
        if path := llava_list(data, "*textvqa_val_v051_ocr.jsonl"):
            return llava_questions(path, path.parent / "train_images", 128)
        path, held = rows(data, VAL, "data", "validation", "TextVQA's questions")
        tokens: dict[str, object] | None = None
        asked = []
        for q in held:
            where = f"{path}: question {q.get('question_id')}"
            image = field(q, "image_id", str, where)
            seen = q.get("ocr_tokens")
            if not isinstance(seen, list):
                tokens = _tokens(path) if tokens is None else tokens
                seen = tokens.get(image)
            if not isinstance(seen, list):
                raise DataError(f"{where}: no OCR tokens of {image}, which the prompt shows; download their file again")
            text = field(q, "question", str, where).capitalize()
            prompt = f"{text}\nReference OCR token: {', '.join(map(str, seen))}{SHORT}"
            # As in LLaVA's file the id is the picture's; answers are joined by it and the prompt.
            shown = picture(q, path, "train_images", f"{image}.jpg")
            asked.append(Question(image, prompt, (shown,), 128, image))
        return asked

    def truths(self, data: Path) -> list[Truth]:
        path, held = rows(data, VAL, "data", "validation", "TextVQA's answers")
        found = []
        for i, q in unique(path, held, "question_id").items():
            ten = [evalai(str(p["answer"])) for p in people(q, f"{path}: question {i}")]
            if len(ten) != TEN:
                raise DataError(f"{path}: question {i} has {len(ten)} answers by people, not {TEN}; download it again")
            found.append(replace(_asked(q), gold=commonest(ten), row={"people": ten}))
        return found

    def lines(
        self, records: Records, truths: Sequence[Truth], questions: Path | None, warnings: Warnings
    ) -> list[AnswerLine]:
        """LLaVA's `question_id` is the picture's, so the question comes from the prompt."""
        known = {t.key for t in truths}
        by_prompt = {(t.group, t.text.lower()): t.key for t in truths if t.text}
        found = []
        for a in super().lines(records, truths, questions, warnings):
            question = None if a.prompt is None else question_of(a.prompt)
            key = None if question is None else by_prompt.get((a.id, question.lower()))
            why = (
                "no prompt" if a.prompt is None else "no question in its prompt" if question is None else repr(question)
            )
            found.append(replace(a, id=key or (a.id if a.id in known else f"{a.id} ({why})")))
        return found

    def read(self, text: str, truth: Truth) -> tuple[str, float]:
        read = evalai(text)
        return read, agreement(read, truth.row["people"])

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        truths = self.truths(data)
        lines, chosen = self.given(answers, truths, questions, protocol, warnings)
        repeated, missing = "this one counts", "it counts as wrong"
        if chosen == LLAVA:
            repeated = "each counts, as in LLaVA's script"
            missing = "left out of the mean, as in LLaVA's script; --protocol official counts it as wrong"
        last = match(lines, [t.key for t in truths], answers, warnings, missing=missing, repeated=repeated)
        said: dict[str, list[AnswerLine]] = {}
        for a in lines:
            said.setdefault(a.id, []).append(a)
        items = []
        for t in truths:
            given = said.get(t.key, []) if chosen == LLAVA else [last[t.key]] if t.key in last else []
            items += [t.outcome(a.text, *self.read(a.text, t)) for a in given]
            if not given and chosen != LLAVA:
                items.append(t.outcome())
        return Graded(items, chosen, warnings.all())

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """Every question with its unchanged answer, or an empty one (EvalAI 551)."""
        path, held = rows(data, ("TextVQA_0.5.1_test.json", *VAL), "data", "test", "TextVQA's questions")
        asked = [_asked(q) for q in unique(path, held, "question_id").values()]
        records = read_records(answers, Warnings())
        lines = self.lines(records, asked, None, Warnings())
        said = match(lines, [t.key for t in asked], answers, Warnings())
        filed = [{"question_id": t.id, "answer": said[t.key].text if t.key in said else ""} for t in asked]
        return submission(folder / f"{self.name}.json", filed)


def _asked(q: Mapping[str, object]) -> Truth:
    text = q.get("question")
    return Truth(question_id(q), text if isinstance(text, str) else "", group=str(q.get("image_id", "")))


def question_of(prompt: str) -> str | None:
    """The question in one of the three prompts that eval_textvqa.py knows; None in any other."""
    if prompt.startswith("OCR tokens: "):
        found = re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL)
        return found.group(1) if found else None
    lines = prompt.split("\n")
    if len(lines) == 3 and "Reference OCR token: " in prompt:
        return lines[1 if prompt.startswith("Reference OCR token:") else 0]
    return lines[0] if len(lines) == 2 else None


def _tokens(path: Path) -> dict[str, object]:
    """OCR tokens by picture, from Rosetta's file of the questions' split."""
    what = "OCR tokens, which LLaVA's prompts show"
    name = TOKENS.format(split=path.stem.rpartition("_")[2])
    _, held = rows(find(path.parent, name, what=what), (name,), "data", "", what)
    return {str(r.get("image_id")): r.get("ocr_tokens") for r in held}
