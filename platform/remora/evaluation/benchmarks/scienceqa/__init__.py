"""ScienceQA, test (Lu et al., arXiv 2209.09513): multiple choice; the papers print the part with pictures.

Letters are read as in eval_science_qa.py of haotian-liu/LLaVA c121f04. As there, the image accuracy is over the answers
whose prompt shows `<image>`: a missing answer is wrong in the overall accuracy, and not counted in this one. The
breakdowns are those of evaluate_acc.py of lupantech/ScienceQA 2cbf831. Either's result file `{"results": {id: index}}`
is used unchanged; it has no prompts, and its image accuracy is over the questions with a picture.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import AnswerLine, Warnings, answer_lines, match, parse, read_text
from remora.evaluation.benchmarks.files import field, find, first_file, image_folder, read_json, root
from remora.evaluation.benchmarks.prompts import LETTER, options
from remora.evaluation.benchmarks.protocol import RowBenchmark, Truth, breakdowns
from remora.evaluation.figures import Figure, mean
from remora.evaluation.hub_tables import parquet_files, parquet_rows, picture_counts
from remora.evaluation.judge import Judge
from remora.evaluation.question import Question, Shown
from remora.evaluation.report import Graded, ScoredAnswer

LETTERS = ("A", "B", "C", "D", "E")
SAID = re.compile(r"The answer is ([A-Z]).")
"""The last dot is any character but a newline, as in the script: there must be one."""
SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
GRADES = {f"grade{i}": "G1-6" if i <= 6 else "G7-12" for i in range(1, 13)}
BREAKDOWNS = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")
IMAGES = ("images/test", "test", "images")


class ScienceQA(RowBenchmark):
    headline = "img_accuracy"
    fields = ("text",)

    def questions(self, data: Path) -> list[Question]:
        if not (path := first_file(data, "*test_CQM-A.json")):
            return [_question(str(t.id), t.text, t.picture) for t in self.truths(data)]
        found = []
        images = image_folder(data, *IMAGES)
        for number, entry in enumerate(read_json(path, list), 1):
            where = f"{path.name}: question {number}"
            turns = field(entry, "conversations", list, where)
            text = field(turns[0] if turns else None, "value", str, where)
            shown = Picture(str(images / field(entry, "image", str, where))) if "image" in entry else None
            found.append(_question(field(entry, "id", str, where), text, shown))
        return found

    def truths(self, data: Path) -> list[Truth]:
        """The test split in its published order, from lupantech's files or from the hub's."""
        if files := parquet_files(data, "test", "ScienceQA-FULL") or parquet_files(data, "test"):
            columns = ("question", "choices", "answer", "hint", "grade", "subject")
            rows = zip(parquet_rows(files, ("image",), columns), picture_counts(files, "image"), strict=True)
            return [
                _truth(str(i), row | {"numbered": True}, row["image"] if n else None, f"{files[0].name}: row {i}")
                for i, (row, n) in enumerate(rows)
            ]
        return _of_files(data)

    def grade(self, data: Path, answers: Path, protocol: str, questions: Path | None, judge: Judge | None) -> Graded:
        warnings = Warnings()
        truths = self.truths(data)
        results = _results(answers, warnings)
        lines = answer_lines(answers, self.keys, self.fields, warnings) if results is None else results
        said = match(lines, [t.key for t in truths], answers, warnings)
        pictured = {t.key for t in truths if t.picture}
        shown = pictured if results is not None else _shown(truths, said, pictured, warnings)
        counted = [replace(t, labels=(*t.labels, "image")) if t.key in shown else t for t in truths]
        return Graded(self.outcomes(counted, said), protocol, warnings.all())

    def read(self, answer: AnswerLine, truth: Truth) -> tuple[str, float]:
        """The letter; one without a choice is wrong."""
        known = answer.record.get("letter")
        read = known if isinstance(known, str) else letter(answer.text)
        return read, float(read == truth.gold)

    def figures(self, items: Sequence[ScoredAnswer]) -> dict[str, Figure]:
        found = breakdowns(items, BREAKDOWNS)
        image = mean([i.score for i in items], ["image" in i.labels for i in items])
        return {"accuracy": found["accuracy"], "img_accuracy": image} | found


def letter(text: str) -> str:
    """The letter in an answer: alone, before `. `, or after a single `The answer is`; else an empty string."""
    if text in LETTERS:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = SAID.findall(text)
    return found[0] if len(found) == 1 else ""


def _shown(
    truths: Sequence[Truth], said: Mapping[str, AnswerLine], pictured: Collection[str], warnings: Warnings
) -> Collection[str]:
    """The questions of img_accuracy: those whose answer's prompt shows `<image>`."""
    prompts = {i: a.prompt for i, a in said.items() if a.prompt is not None}
    for t in truths:
        if t.row["numbered"] and t.row["question"].strip() not in prompts.get(t.key, t.row["question"]):
            raise DataError(
                f"version mismatch: {said[t.key].where} does not ask what row {t.id} of the data asks, and "
                "the hub's rows carry no ids to join by; pass as --data the folder of problems.json and pid_splits.json"
            )
    shown = {i for i, prompt in prompts.items() if "<image>" in prompt}
    if pictured and not shown:
        warnings.add("prompts", "no prompt shows `<image>`; img_accuracy is over the questions with a picture")
        return pictured
    for t in truths:
        a = said.get(t.key)
        if a and (t.key in shown) != (t.key in pictured):
            has = "shows" if t.key in shown else "does not show"
            line = f"{a.where}: the prompt of {t.id} {has} `<image>`, unlike its question; the prompt counts"
            warnings.add("prompts that differ from their question", line)
        if not a and t.key in pictured:
            line = f"question {t.id} has no answer; as in LLaVA's script it is not counted in img_accuracy"
            warnings.add("questions with a picture and no answer", line)
    return shown


def _results(answers: Path, warnings: Warnings) -> list[AnswerLine] | None:
    """lupantech's and LLaVA's result file: an index into the choices, -1 for none. None if it is not such a file."""
    try:
        value = parse(read_text(answers))
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("results"), dict):
        return None
    outputs = value.get("outputs")
    found = []
    for i, given in value["results"].items():
        try:
            index = int(given)
        except (TypeError, ValueError, OverflowError):
            warnings.add("results that are no index", f"result of {i}: {str(given)[:60]!r} is not an index; left out")
            continue
        text = outputs.get(i, index) if isinstance(outputs, dict) else index
        read = LETTERS[index] if 0 <= index < len(LETTERS) else ""
        found.append(AnswerLine(i, str(text), f"{answers.name}: result of {i}", {"letter": read}))
    return found


def _question(identity: str, text: str, shown: Shown | None) -> Question:
    """The prompt of model_vqa_science.py with --single-pred-prompt."""
    text = text.replace("<image>", "").strip() + LETTER
    pictures = (shown,) if shown else ()
    return Question(identity, text, pictures, 1024, identity, f"<image>\n{text}" if shown else None)


def _of_files(data: Path) -> list[Truth]:
    path = find(data, "problems.json", what="ScienceQA's problems")
    everything = read_json(path, dict)
    splits = first_file(data, "pid_splits.json")
    if splits:
        chosen = list(dict.fromkeys(map(str, field(read_json(splits, dict), "test", list, splits.name))))
    else:
        chosen = [i for i, p in everything.items() if isinstance(p, dict) and p.get("split") == "test"]
    if not chosen:
        raise DataError(f"{splits or path}: no question of the test split in it; download it again")
    images = image_folder(root(data), *IMAGES)
    found = []
    for i in chosen:
        if i not in everything:
            raise DataError(f"{path}: no problem {i[:80]!r}, which {splits} names; take both from one version")
        name = everything[i].get("image") if isinstance(everything[i], dict) else None
        shown = Picture(str(images / i / str(name))) if name else None
        found.append(_truth(i, everything[i], shown, f"{path.name}: problem {i[:80]!r}"))
    return found


def _truth(identity: str, row: dict[str, object], shown: Shown | None, where: str) -> Truth:
    """Its row has `numbered` if its id is its row's number: the hub's dataset has no ids."""
    choices = [str(c) for c in field(row, "choices", list, where)]
    answer, question = field(row, "answer", int, where), field(row, "question", str, where)
    if not 0 <= answer < min(len(choices), len(LETTERS)):
        raise DataError(f"{where}: answer {answer} of {len(choices)} choices; download the file again")
    hint = str(row.get("hint") or "")
    labels = [SUBJECTS.get(str(row.get("subject"))), GRADES.get(str(row.get("grade")))]
    labels += ["TXT" if hint else None, "IMG" if shown else None, None if hint or shown else "NO"]
    named = tuple(label for label in labels if label)
    context = f"Context: {hint}\n" if hint else ""
    known = {"question": question, "numbered": "numbered" in row}
    text = f"{context}{question}\n{options(choices)}"
    return Truth(identity, text, LETTERS[answer], identity, named, shown, row=known)
