"""MMMU's questions and right answers: its answer_dict_val.json, the hub's Parquet, the Factory's anns_for_eval.json."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from remora.data.pictures import Picture
from remora.errors import DataError
from remora.evaluation.benchmarks.files import read_json
from remora.evaluation.hub_tables import InParquet, parquet_columns, parquet_files, parquet_rows

DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        *("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine"),
        *("Pharmacy", "Public_Health"),
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        *("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power"),
        *("Materials", "Mechanical_Engineering"),
    ),
}
DOMAIN = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}
SUBJECTS = sorted(DOMAIN)
"""In the official scripts' order, which is alphabetical."""
SPLITS = ("validation", "test", "dev")
CHOICE = "multiple-choice"
UNKNOWN = "?"
"""The right answer of a question of the test split."""


@dataclass(frozen=True)
class CollegeQuestion:
    """One question; `options` is None if the file lacks them, `gold` if it is unknown."""

    id: str
    choice: bool
    gold: tuple[str, ...] | None = None
    letters: tuple[str, ...] = ()
    options: dict[str, str] | None = None
    prompt: str | None = None
    question: str | None = None
    picture: Picture | InParquet | None = None

    @property
    def subject(self) -> str:
        return subject_of(self.id)


def subject_of(identity: str) -> str:
    """The subject in an id: Art_Theory in validation_Art_Theory_3."""
    return "_".join(identity.split("_")[1:-1])


def in_official_order(ids: Iterable[str]) -> list[str]:
    """By subject, keeping the order within each: the order in which random letters are drawn."""
    return sorted((i for i in ids if subject_of(i) in DOMAIN), key=lambda i: SUBJECTS.index(subject_of(i)))


def split_of(ids: Iterable[str]) -> str:
    """The split in the first id; validation if it has none."""
    first = next(iter(ids), "").split("_")[0]
    return first if first in SPLITS else SPLITS[0]


def read_questions(data: Path, questions: Path | None = None, split: str = SPLITS[0]) -> dict[str, CollegeQuestion]:
    """Questions by id, in the order they are asked, merged from all of MMMU's files in `data`.

    Raises:
        DataError: there is no such file, or one cannot be read.
    """
    if not data.exists():
        raise DataError(f"missing MMMU: {data} does not exist; expected {_EXPECTED}, or a folder that holds one")
    sources = [data]
    if data.is_dir():
        sources = [*data.rglob("anns_for_eval.json"), *sorted(data.rglob("answer_dict*.json"))]
        if parquet := next((files for s in (split, *SPLITS) if (files := parquet_files(data, s))), []):
            sources = [*parquet, *sources]
    elif data.name == "anns_for_eval.json":
        sources += sorted(data.parent.rglob("answer_dict*.json"))
    found: dict[str, CollegeQuestion] = {}
    for path in [*sources, *([questions] if questions else [])]:
        for entry in _parquet(path) if path.suffix == ".parquet" else _json(path):
            found[entry.id] = _merged(found[entry.id], entry) if entry.id in found else entry
    if not found:
        raise DataError(f"missing MMMU's questions: expected {_EXPECTED} in {data}")
    return found


_EXPECTED = "<subject>/validation-*.parquet, answer_dict_val.json or anns_for_eval.json"


def _merged(one: CollegeQuestion, other: CollegeQuestion) -> CollegeQuestion:
    """The first question, with its missing fields from the second."""
    return CollegeQuestion(
        one.id,
        one.choice,
        one.gold or other.gold,
        one.letters or other.letters,
        one.options if one.options is not None else other.options,
        one.prompt or other.prompt,
        one.question or other.question,
        one.picture or other.picture,
    )


def _json(path: Path) -> Iterator[CollegeQuestion]:
    """MMMU's {id: {question_type, ground_truth}}, or a list of objects with an id, as the Factory and MMMU write."""
    raw: object = read_json(path, object, f"expected {_EXPECTED}")
    records = [{"id": k, **v} for k, v in raw.items() if isinstance(v, dict)] if isinstance(raw, dict) else raw
    if not isinstance(records, list) or not all(isinstance(r, dict) and isinstance(r.get("id"), str) for r in records):
        raise DataError(f"{path}: no questions of MMMU; expected {_EXPECTED}")
    for record in records:
        letters, options = answer_options(record)
        image = record.get("image")
        yield CollegeQuestion(
            record["id"],
            record.get("question_type") == CHOICE,
            _gold(record.get("ground_truth", record.get("answer"))),
            letters,
            options,
            prompt=record["prompt"] if isinstance(record.get("prompt"), str) else None,
            picture=Picture(str(path.parent / "all_images" / image)) if isinstance(image, str) and image else None,
        )


def answer_options(record: dict[str, object]) -> tuple[tuple[str, ...], dict[str, str] | None]:
    """`all_choices` and `index2ans` of a record; empty and None if it has neither."""
    letters, options = record.get("all_choices"), record.get("index2ans")
    known = {str(k): str(v) for k, v in options.items()} if isinstance(options, dict) else None
    if isinstance(letters, list) and letters:
        return tuple(str(c) for c in letters), known or {}
    return tuple(known or ()), known or None


def _parquet(path: Path) -> Iterator[CollegeQuestion]:
    pictures = tuple(n for n in parquet_columns(path) if re.fullmatch(r"image_\d", n))
    for row in parquet_rows([path], pictures, ("id", "question", "options", "question_type")):
        texts = _options(row, path)
        letters = tuple(chr(ord("A") + i) for i in range(len(texts)))
        yield CollegeQuestion(
            str(row["id"]),
            row["question_type"] == CHOICE,
            _gold(row.get("answer")),
            letters,
            dict(zip(letters, texts, strict=True)),
            question=row["question"],
            picture=row.get("image_1"),
        )


def _options(row: dict[str, object], path: Path) -> list[str]:
    """The options, which the hub stores as the text of a Python list."""
    raw = row["options"]
    try:
        options = ast.literal_eval(raw) if isinstance(raw, str) else raw
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        options = None
    if not isinstance(options, list):
        raise DataError(f"{path}: the options of {row['id']} are no list: {str(raw)[:60]!r}; download it again")
    return [str(o) for o in options]


def _gold(raw: object) -> tuple[str, ...] | None:
    """One right answer or several, which the hub stores as the text of a Python list."""
    if isinstance(raw, str) and raw.startswith("[") and raw.endswith("]"):
        try:
            raw = ast.literal_eval(raw)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return (str(raw),)
    if isinstance(raw, list):
        return tuple(str(value) for value in raw) or None
    return None if raw is None or raw == UNKNOWN else (str(raw),)
