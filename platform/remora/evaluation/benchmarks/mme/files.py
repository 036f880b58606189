"""MME's questions from the released folder or the hub's files; its answers from LLaVA's lines or the tool's files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.answers import AnswerLine, Warnings, answer_lines, read_text
from remora.evaluation.benchmarks.files import field, first_file, root
from remora.evaluation.benchmarks.protocol import Truth
from remora.evaluation.hub_tables import parquet_files, parquet_rows
from remora.evaluation.question import Shown

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = PERCEPTION + COGNITION
YES_OR_NO = "Please answer yes or no."
INSTRUCTIONS = (
    YES_OR_NO,
    "Answer the question using a single word or phrase.",
    "Answer the question directly with a short sentence or phrase.",
)
"""Instructions for a short answer: MME's own, LLaVA's, Bunny's. A prompt without them, with single spaces, is the
question: some released ones have two spaces before the instruction, which LLaVA's script handles, too."""


def key(subtask: str, stem: str, text: str) -> str:
    """A question's key: its picture and its words."""
    for instruction in INSTRUCTIONS:
        text = text.replace(instruction, "")
    return f"{subtask}/{stem}: {' '.join(text.split())}"


def source(data: Path) -> list[Truth]:
    """Every question, by subtask in the published order; answers refer to it by its picture and its words.

    Its `id` is LLaVA's, which both questions about a picture share: the picture's path in the released folder.

    Raises:
        DataError: there is none, or a line is not a question.
    """
    if files := parquet_files(data, "test"):
        found = list(_of_hub(files))
    else:
        folders = [p for s in SUBTASKS for p in root(data).rglob(s) if p.is_dir()]
        parents = [p.parent for p in folders]
        # eval_tool and answers may be in the same folder; the release is the one with the most subtasks.
        base = max(sorted(set(parents), key=lambda p: (len(p.parts), p)), key=parents.count, default=None)
        found = [q for s in SUBTASKS if base for q in _of_folder(base / s)]
    if not found:
        raise DataError(
            f"missing MME's questions: no folder {', '.join(SUBTASKS[:3])} … with .txt files in {data}, and no Parquet "
            "file; expected MME_Benchmark_release_version"
        )
    return sorted(found, key=lambda q: SUBTASKS.index(q.labels[0]))


def _truth(subtask: str, stem: str, text: str, gold: str, image: str, picture: Shown) -> Truth:
    return Truth(image, text, gold, f"{subtask}/{stem}", (subtask,), picture, key(subtask, stem, text))


def _of_folder(folder: Path) -> Iterator[Truth]:
    """One subtask: pictures and texts in the same folder, or in one each."""
    split = (folder / "images").is_dir() or (folder / "questions_answers_YN").is_dir()
    images, texts = (folder / "images", folder / "questions_answers_YN") if split else (folder, folder)
    shown = {_stem(p.name): p for p in sorted(images.glob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png")}
    for path in sorted(texts.glob("*.txt")):
        stem = _stem(path.name)
        picture = shown.get(stem, images / f"{stem}.jpg")
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            question, _, gold = line.strip().rpartition("\t")
            if not question or gold.strip().lower() not in ("yes", "no"):
                raise DataError(f"{path}:{number}: {line[:60]!r} is no question, a tab, and Yes or No")
            image = picture.relative_to(folder.parent).as_posix()
            yield _truth(folder.name, stem, question, gold.strip().lower(), image, Picture(str(picture)))


def _of_hub(files: list[Path]) -> Iterator[Truth]:
    for row in parquet_rows(files, ("image",), ("question_id", "question", "answer", "category")):
        where = str(row["image"])
        image, subtask = field(row, "question_id", str, where), field(row, "category", str, where)
        gold = field(row, "answer", str, where).strip().lower()
        if subtask not in SUBTASKS or gold not in ("yes", "no"):
            raise DataError(f"{where}: subtask {subtask!r} and answer {gold!r}; is it MME's data set?")
        text = field(row, "question", str, where)
        yield _truth(subtask, _stem(image), text, gold, image, row["image"])


def _stem(name: str) -> str:
    """The file's name up to its first dot, as in LLaVA's script."""
    return name.split("/")[-1].split(".")[0]


def _lines(path: Path) -> list[str]:
    """Lines as Python reads a text file; str.splitlines would cut an answer at a U+2028."""
    return re.split("\r\n|\r|\n", read_text(path))


def read_lines(answers: Path, truths: Sequence[Truth], warnings: Warnings) -> list[AnswerLine]:
    """The answers of a file, or of the tool's folder of files, by their questions' picture and words.

    Raises:
        DataError: there are no answers.
    """
    if answers.is_dir() or answers.suffix == ".txt":
        lines = list(_of_tool(answers, {t.key: t.gold for t in truths}, warnings))
        if not lines:
            raise DataError(f"{answers}: no answer in it; expected eval_tool's files, {', '.join(SUBTASKS[:3])} … .txt")
    else:
        lines = list(_of_llava(answers, warnings))
        if not lines:
            raise DataError(
                f"{answers}: no answer has a prompt, which tells a picture's two questions apart; expected LLaVA's"
            )
    _out_of_order(lines, warnings)
    return lines


def _of_llava(path: Path, warnings: Warnings) -> Iterator[AnswerLine]:
    for a in answer_lines(path, ("question_id",), ("text",), warnings):
        if a.prompt is None:
            warnings.add("answers without a prompt", f"{a.where}: no prompt, so its question is unknown; left out")
        else:
            yield _on_one_line(replace(a, id=key(a.id.split("/")[0], _stem(a.id), a.prompt)), warnings)


def _of_tool(answers: Path, gold: dict[str, str], warnings: Warnings) -> Iterator[AnswerLine]:
    """Tab separated lines of picture, question, truth and answer."""
    if answers.is_dir():
        files = {s: p for s in SUBTASKS if (p := first_file(answers, f"{s}.txt"))}
    elif answers.stem in SUBTASKS:
        files = {answers.stem: answers}
    else:
        raise DataError(f"{answers}: named after no subtask; expected one of {', '.join(SUBTASKS)} .txt")
    for subtask, path in files.items():
        for number, line in enumerate(_lines(path), 1):
            where = f"{path.name}:{number}"
            if not line.strip():
                continue
            name, question, truth, *said = [*line.split("\t", 3), "", ""][: max(3, line.count("\t") + 1)]
            if not said:
                warnings.add("lines without an answer", f"{where}: no picture, question, truth and answer; left out")
                continue
            found = key(subtask, _stem(name), question)
            if gold.get(found, truth.lower()) != truth.lower():
                warnings.add("truths", f"{where}: its ground truth is {truth!r}, the data has another, which counts")
            yield _on_one_line(AnswerLine(found, said[0], where), warnings)


def _on_one_line(a: AnswerLine, warnings: Warnings) -> AnswerLine:
    """Replace tabs and newlines, which would break the tool's files."""
    if not re.search("[\t\r\n]", a.text):
        return a
    warnings.add("answers of several lines", f"{a.where}: a tab or a newline in the answer; read as a space")
    return replace(a, text=re.sub("[\t\r\n]", " ", a.text))


def _out_of_order(lines: list[AnswerLine], warnings: Warnings) -> None:
    """Warn where calculation.py, which pairs consecutive lines, would pair answers of two pictures."""
    by_subtask: dict[str, list[str]] = {}
    for line in lines:
        group = line.id.partition(": ")[0]
        by_subtask.setdefault(group.partition("/")[0], []).append(group)
    for subtask, groups in by_subtask.items():
        if groups[::2] != groups[1::2]:
            kind = f"{subtask}: a picture's two answers are not in consecutive lines, where calculation.py expects them"
            warnings.add("order", f"{kind}; they are matched by picture")
