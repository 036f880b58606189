"""ScienceQA, test (Lu et al., arXiv 2209.09513): multiple choice, of which the papers print the part with pictures.

Letters are read as in eval_science_qa.py of haotian-liu/LLaVA c121f04. As there, the image accuracy is over the answers
whose prompt shows `<image>`: an answer that is missing is wrong among all, and is not counted among those. The
breakdowns are those of evaluate_acc.py of lupantech/ScienceQA 2cbf831. Either's result file `{"results": {id: index}}`
is taken as it is; it holds no prompts, and its image accuracy is over the questions with a picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import Warnings, answered, find, parse, read_text
from remora.evaluation.asking import Question, Shown
from remora.evaluation.benchmarks.base import Benchmark
from remora.evaluation.benchmarks.layout import (
    field,
    first_file,
    hub_files,
    hub_rows,
    image_folder,
    latest,
    picture_counts,
    read_answers,
    read_json,
    root,
)
from remora.evaluation.benchmarks.prompts import LETTER, options
from remora.evaluation.figures import Figure, mean
from remora.evaluation.judge import Judge
from remora.evaluation.report import Graded, Item

LETTERS = ("A", "B", "C", "D", "E")
SAID = re.compile(r"The answer is ([A-Z]).")
"""The last dot is any character but a line's end, as in the script: there must be one."""
SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
GRADES = {f"grade{i}": "G1-6" if i <= 6 else "G7-12" for i in range(1, 13)}
BREAKDOWNS = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")


@dataclass(frozen=True)
class Problem:
    """One problem of the test split."""

    id: str
    question: str
    choices: list[str]
    answer: int
    hint: str
    picture: Shown | None
    labels: tuple[str, ...]
    numbered: bool = False
    """Its id is its row's number: the hub's data set has no ids."""

    def asked(self) -> Question:
        context = f"Context: {self.hint}\n" if self.hint else ""
        return _asked(self.id, f"{context}{self.question}\n{options(self.choices)}", self.picture)


class ScienceQA(Benchmark):
    name, title, headline = "scienceqa", "ScienceQA", "img_accuracy"

    def questions(self, data: Path) -> list[Question]:
        if not (path := first_file(data, "*test_CQM-A.json")):
            return [p.asked() for p in _problems(data)]
        found = []
        images = image_folder(data, "images/test", "test", "images")
        for number, entry in enumerate(read_json(path, list), 1):
            where = f"{path.name}: question {number}"
            turns = field(entry, "conversations", list, where)
            text = field(turns[0] if turns else None, "value", str, where)
            shown = Picture(str(images / field(entry, "image", str, where))) if "image" in entry else None
            found.append(_asked(field(entry, "id", str, where), text, shown))
        return found

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        problems = _problems(data)
        if (results := _results(answers)) is not None:
            items = _from_results(problems, results, warnings)
        else:
            items = _from_lines(problems, answers, warnings)
        return Graded(items, protocol, warnings.all())

    def figures(self, items: Sequence[Item]) -> dict[str, Figure]:
        scores = [i.score for i in items]
        found = {"accuracy": mean(scores), "img_accuracy": mean(scores, ["image" in i.labels for i in items])}
        there = {label for i in items for label in i.labels}
        return found | {
            f"accuracy.{label}": mean(scores, [label in i.labels for i in items])
            for label in BREAKDOWNS
            if label in there
        }


def letter(text: str) -> str:
    """The letter that an answer gives: alone, before `. `, or after the one `The answer is`; else nothing."""
    if text in LETTERS:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = SAID.findall(text)
    return found[0] if len(found) == 1 else ""


def _from_lines(problems: list[Problem], answers: Path, warnings: Warnings) -> list[Item]:
    said = latest(read_answers(answers, ("question_id",), ("text",), warnings), [p.id for p in problems], warnings)
    prompts = {i: p for i, a in said.items() if isinstance(p := a.record.get("prompt"), str)}
    for problem in problems:
        if problem.numbered and problem.question.strip() not in prompts.get(problem.id, problem.question):
            raise DataError(
                f"version mismatch: {said[problem.id].where} does not ask what row {problem.id} of the data asks, and "
                "the hub's rows carry no ids to join by; pass as --data the folder of problems.json and pid_splits.json"
            )
    shown = {i for i, prompt in prompts.items() if "<image>" in prompt}
    pictured = {p.id for p in problems if p.picture}
    if pictured and not shown & {p.id for p in problems}:
        warnings.add("prompts", "no prompt shows `<image>`; img_accuracy is over the questions with a picture")
        shown = pictured
    items = []
    for p in problems:
        a = said.get(p.id)
        if a and (p.id in shown) != (p.id in pictured):
            has = "shows" if p.id in shown else "does not show"
            line = f"{a.where}: the prompt of {p.id} {has} `<image>`, unlike its question; the prompt counts"
            warnings.add("prompts that differ from their question", line)
        if not a and p.id in pictured and shown is not pictured:
            line = f"question {p.id} has no answer; as in LLaVA's script it is not counted in img_accuracy"
            warnings.add("questions with a picture and no answer", line)
        items.append(_item(p, a.text if a else "", letter(a.text) if a else "", p.id in shown))
    return items


def _from_results(problems: list[Problem], results: dict[str, Any], warnings: Warnings) -> list[Item]:
    """lupantech's and LLaVA's result file: an index into the choices, -1 for none."""
    chosen: dict[str, int] = {}
    for i, value in results["results"].items():
        try:
            chosen[i] = int(value)
        except (TypeError, ValueError, OverflowError):
            warnings.add("results that are no index", f"result of {i}: {str(value)[:60]!r} is no index; left out")
    if not chosen.keys() & {p.id for p in problems}:
        raise DataError(
            f"no result is of one of the {len(problems)} questions, which begin with {problems[0].id}; "
            "pass as --data the questions that were answered"
        )
    answered((p.id for p in problems), {i: str(n) for i, n in chosen.items()}, warnings)
    outputs = results.get("outputs")
    outputs = outputs if isinstance(outputs, dict) else {}
    items = []
    for p in problems:
        index = chosen.get(p.id, -1)
        said = outputs.get(p.id, "" if p.id not in chosen else str(index))
        items.append(_item(p, str(said), LETTERS[index] if 0 <= index < len(LETTERS) else "", p.picture is not None))
    return items


def _item(problem: Problem, text: str, read: str, shown: bool) -> Item:
    """`read` is right if it is the answer's letter; a letter that no choice has is not."""
    gold = LETTERS[problem.answer]
    labels = (*problem.labels, *(("image",) if shown else ()))
    return Item(problem.id, text, read, float(read == gold), problem.id, gold, labels)


def _asked(identity: str, text: str, shown: Shown | None) -> Question:
    """The prompt of model_vqa_science.py with --single-pred-prompt."""
    text = text.replace("<image>", "").strip() + LETTER
    pictures = (shown,) if shown else ()
    return Question(identity, text, pictures, 1024, identity, f"<image>\n{text}" if shown else None)


def _results(answers: Path) -> dict[str, Any] | None:
    """The answer file if it is a result file. Its own reader, since LLaVA's are JSON in one piece."""
    try:
        value = parse(read_text(answers))
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("results"), dict) else None


def _problems(data: Path) -> list[Problem]:
    """The test split in its published order, from lupantech's files or from the hub's."""
    if files := hub_files(data, "test", "ScienceQA-FULL") or hub_files(data, "test"):
        columns = ("image", "question", "choices", "answer", "hint", "grade", "subject")
        rows = zip(hub_rows(files, columns, "image"), picture_counts(files, "image"), strict=True)
        return [
            _problem(str(i), row, row["image"] if n else None, f"{files[0].name}: row {i}", numbered=True)
            for i, (row, n) in enumerate(rows)
        ]
    path = find(data, "problems.json", what="ScienceQA's problems")
    everything = read_json(path, dict)
    splits = first_file(data, "pid_splits.json")
    if splits:
        chosen = list(dict.fromkeys(map(str, field(read_json(splits, dict), "test", list, splits.name))))
    else:
        chosen = [i for i, p in everything.items() if isinstance(p, dict) and p.get("split") == "test"]
    if not chosen:
        raise DataError(f"{splits or path}: no question of the test split in it; download it again")
    images = image_folder(root(data), "images/test", "test", "images")
    found = []
    for i in chosen:
        if i not in everything:
            raise DataError(f"{path}: no problem {i[:80]!r}, which {splits} names; take both from one version")
        name = everything[i].get("image") if isinstance(everything[i], dict) else None
        shown = Picture(str(images / i / str(name))) if name else None
        found.append(_problem(i, everything[i], shown, f"{path.name}: problem {i[:80]!r}"))
    return found


def _problem(identity: str, row: dict[str, Any], shown: Shown | None, where: str, *, numbered: bool = False) -> Problem:
    choices = [str(c) for c in field(row, "choices", list, where)]
    answer = field(row, "answer", int, where)
    if not 0 <= answer < min(len(choices), len(LETTERS)):
        raise DataError(f"{where}: answer {answer} of {len(choices)} choices; download the file again")
    hint = row.get("hint") or ""
    labels = [SUBJECTS.get(str(row.get("subject"))), GRADES.get(str(row.get("grade")))]
    labels += ["TXT" if hint else None, "IMG" if shown else None, None if hint or shown else "NO"]
    named = tuple(label for label in labels if label)
    return Problem(identity, field(row, "question", str, where), choices, answer, str(hint), shown, named, numbered)
