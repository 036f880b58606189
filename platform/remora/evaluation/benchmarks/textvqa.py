"""TextVQA, validation (Singh et al., arXiv 1904.08920): one word or phrase read from a picture, ten people's answers.

LLaVA's lines are joined and scored as its eval_textvqa.py does (LLaVA c121f04): by picture and the question recovered
from the prompt, over the lines that there are. The official format [{question_id, answer}] is scored over all
questions. Both normalise by EvalAIAnswerProcessor.

The prompt is that of LLaVA's question file: the question with a capital and no other, then Rosetta's OCR tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import Records, Warnings, answered, find, texts
from remora.evaluation.asking import InParquet, Question
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
    text_of,
    unique,
    write,
)
from remora.evaluation.benchmarks.prompts import SHORT, llava_questions
from remora.evaluation.figures import Figure
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, Item
from remora.evaluation.words import agreement, evalai

VAL = ("TextVQA_0.5.1_val.json", "TextVQA_0*_val.json", "TextVQA_0*.json")
TOKENS = "TextVQA_Rosetta_OCR_v0.2_{split}.json"
TEN = 10


class TextVQA(Benchmark):
    name, title, headline = "textvqa", "TextVQA", "accuracy"
    protocols = PROTOCOLS

    def questions(self, data: Path) -> list[Question]:
        if found := [data] if data.suffix == ".jsonl" else sorted(data.rglob("*textvqa_val_v051_ocr.jsonl")):
            return llava_questions(found[0], found[0].parent / "train_images", max_new_tokens=128)
        path, held = rows(data, VAL, "data", "validation", "TextVQA's questions")
        tokens: dict[str, Any] | None = None
        asked = []
        for q in held:
            where = f"{path}: question {q.get('question_id')}"
            image = text_of(q, "image_id", where)
            seen = q.get("ocr_tokens")
            if not isinstance(seen, list):
                tokens = _tokens(path) if tokens is None else tokens
                seen = tokens.get(image)
            if not isinstance(seen, list):
                raise DataError(f"{where}: no OCR tokens of {image}, which the prompt shows; download their file again")
            shown = q.get("image")
            if not isinstance(shown, InParquet):
                shown = Picture(str(pictures_folder(path, "train_images") / f"{image}.jpg"))
            text = text_of(q, "question", where).capitalize()
            prompt = f"{text}\nReference OCR token: {', '.join(map(str, seen))}{SHORT}"
            # As in LLaVA's file the id is the picture's: with the prompt it is what answers are joined by.
            asked.append(Question(image, prompt, (shown,), 128, image))
        return asked

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        path, held = rows(data, VAL, "data", "validation", "TextVQA's answers")
        asked = unique(path, held, "question_id")
        records = read_answers(answers, warnings)
        chosen = by_format(protocol, records)
        said: dict[str, list[str]] = {}
        for i, text in _joined(asked, records, warnings):
            said.setdefault(i, []).append(text)
        belong(asked, said, answers)
        _say_counted(chosen, asked, said, warnings)
        items = []
        for i, q in asked.items():
            given = said.get(i, [])
            ten = [evalai(p["answer"]) for p in people(q, f"{path}: question {i}")]
            if len(ten) != TEN:
                raise DataError(f"{path}: question {i} has {len(ten)} answers by people, not {TEN}; download it again")
            for text in given if chosen == LLAVA else given[-1:]:
                read = evalai(text)
                items.append(_item(q, text, read, agreement(read, ten), ten))
            if not given and chosen != LLAVA:
                items.append(_item(q, "", "", 0.0, ten))
        return Graded(items, chosen, warnings.all())

    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
        return breakdowns(items)

    def submission(self, data: Path, answers: Path, folder: Path) -> list[Path]:
        """Every question with its answer as it is, or an empty one (EvalAI 551)."""
        names = ("TextVQA_0.5.1_test.json", *VAL)
        path, held = rows(data, names, "data", "test", "TextVQA's questions")
        asked = unique(path, held, "question_id")
        warnings = Warnings()
        said = dict(_joined(asked, read_answers(answers, warnings), warnings))
        belong(asked, said, answers)
        return write(
            folder, self.name, [{"question_id": q["question_id"], "answer": said.get(i, "")} for i, q in asked.items()]
        )


def _item(q: Mapping[str, Any], text: str, read: str, score: float, ten: Sequence[str]) -> Item:
    return Item(q["question_id"], text, read, score, str(q.get("image_id", "")), commonest(ten))


def _joined(asked: Mapping[str, Mapping[str, Any]], records: Records, warnings: Warnings) -> Iterator[tuple[str, str]]:
    """(question_id, answer) of every line. LLaVA's `question_id` is the picture's, so the prompt says the question."""
    by_prompt = {
        (str(q.get("image_id")), text.lower()): i
        for i, q in asked.items()
        if isinstance(text := q.get("question"), str)
    }
    for identity, text, n in texts(records, ("question_id",), ("text", "answer"), warnings):
        prompt = records.objects[n].get("prompt")
        question = question_of(prompt) if isinstance(prompt, str) else None
        found = by_prompt.get((identity, question.lower())) if question is not None else None
        if found is None and identity in asked:
            found = identity
        if found is not None:
            yield found, text
            continue
        why = "no prompt" if prompt is None else "no question in its prompt" if question is None else repr(question)
        warnings.add("answers to no question", f"{records.where(n)}: answer to {identity} ({why}), not asked; left out")


def question_of(prompt: str) -> str | None:
    """The question in one of the three prompts that eval_textvqa.py knows; None in any other."""
    if prompt.startswith("OCR tokens: "):
        found = re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL)
        return found.group(1) if found else None
    lines = prompt.split("\n")
    if len(lines) == 3 and "Reference OCR token: " in prompt:
        return lines[1 if prompt.startswith("Reference OCR token:") else 0]
    return lines[0] if len(lines) == 2 else None


def _say_counted(chosen: str, asked: Mapping[str, Any], said: Mapping[str, Sequence[str]], warnings: Warnings) -> None:
    """What the two conventions count differently."""
    repeated = [i for i, given in said.items() if len(given) > 1]
    counts = "each counts, as in LLaVA's script" if chosen == LLAVA else "the last counts"
    for i in repeated:
        warnings.add("repeated answers", f"question {i} has {len(said[i])} answers; {counts}")
    if chosen != LLAVA:
        answered(asked, {i: given[-1] for i, given in said.items()}, warnings)
    elif len(said) < len(asked):
        warnings.add(
            "conventions",
            f"{len(asked) - len(said)} of {len(asked)} questions are left out of the mean, as in LLaVA's script, which"
            " counts answers alone; --protocol official counts them as wrong",
        )


def _tokens(path: Path) -> dict[str, Any]:
    """OCR tokens by picture, from Rosetta's file of the questions' split."""
    what = "OCR tokens, which LLaVA's prompts show"
    name = TOKENS.format(split=path.stem.rpartition("_")[2])
    _, held = rows(find(path.parent, name, what=what), (name,), "data", "", what)
    return {str(r.get("image_id")): r.get("ocr_tokens") for r in held}
