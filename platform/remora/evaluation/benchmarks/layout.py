"""What benchmarks with short answers share in reading: their files wherever they lie, and answers line by line.

Nothing in a file may end in anything but a DataError: data that is not as it should be stops with the place, an answer
that is not is named and left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet

from remora.errors import DataError
from remora.evaluation.answers import Warnings, answered, parse, read_records, read_text, texts
from remora.evaluation.asking import parquet_files, parquet_rows

T = TypeVar("T")


def root(data: Path) -> Path:
    """The folder of the data, which may be given as one of its files."""
    return data.parent if data.is_file() else data


def first_file(data: Path, *patterns: str) -> Path | None:
    """The file of the first pattern that any matches: the one least deep in the folder."""
    for pattern in patterns:
        if found := sorted((p for p in root(data).rglob(pattern) if p.is_file()), key=lambda p: (len(p.parts), p)):
            return found[0]
    return None


def image_folder(data: Path, *names: str) -> Path:
    """The first of these folders that is there, at any depth; the first name if none is, for what a message says."""
    for name in names:
        if found := sorted((p for p in root(data).rglob(name) if p.is_dir()), key=lambda p: (len(p.parts), p)):
            return found[0]
    return root(data) / names[0]


def read_json(path: Path, kind: type[T], hint: str = "download it again") -> T:
    """A JSON file of that kind, or of any with `object`; `hint` is what to do if it is no JSON.

    Raises:
        DataError: it is neither, or no JSON.
    """
    try:
        value = parse(read_text(path))
    except ValueError as e:
        raise DataError(f"{path}: not JSON ({e}); {hint}") from None
    if not isinstance(value, kind):
        raise DataError(f"{path}: holds {type(value).__name__}, expected {kind.__name__}; is it the right file?")
    return value


def field(record: Any, name: str, kind: type[T], where: str) -> T:
    """One value of a question, or a DataError: a question that is lost would change the score."""
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"{where}: {name} is {str(value)[:60]!r}, expected {kind.__name__}; download the file again")
    return value


def lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of a question file of JSON lines, in which every line must be one."""
    warnings = Warnings()
    records = read_records(path, warnings)
    if warnings.lines:
        raise DataError(warnings.lines[0])
    if records.mapping is not None:
        raise DataError(f"{path}: one JSON object without a question; expected JSON lines")
    for i, record in enumerate(records.objects):
        yield records.where(i), record


def hub_files(data: Path, split: str, config: str = "") -> list[Path]:
    """parquet_files, or the data itself if it is such a file."""
    return [data] if data.is_file() and data.suffix == ".parquet" else parquet_files(data, split, config)


def hub_rows(files: list[Path], columns: Collection[str], picture: str | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a hub data set that must have these columns; the picture stays in the file."""
    for row in parquet_rows(files, (picture,) if picture else ()):
        if missing := [c for c in columns if c not in row]:
            there = ", ".join(row)
            raise DataError(
                f"{files[0]}: no column {missing[0]!r}; there are {there}; is it this benchmark's data set?"
            )
        yield row


def picture_counts(files: list[Path], column: str) -> Iterator[int]:
    """How many pictures each row holds: 0 or 1, or a list's length. Reads the pictures' names alone where there are."""
    for path in files:
        file = pyarrow.parquet.ParquetFile(path)
        leaves = [file.schema.column(i).path for i in range(len(file.schema))]
        names = [leaf for leaf in leaves if leaf.startswith(f"{column}.") and leaf.endswith(".path")]
        for group in range(file.num_row_groups):
            try:
                cells = file.read_row_group(group, columns=names or [column]).column(column).to_pylist()
            except (OSError, pyarrow.ArrowException) as e:
                raise DataError(f"{path}: {column} of row group {group} is torn ({e}); download it again") from None
            yield from (len(cell) if isinstance(cell, list) else int(cell is not None) for cell in cells)


@dataclass(frozen=True)
class Answer:
    """One line of an answer file. `llava` says that it is LLaVA's, whose text its scripts may convert first."""

    id: str
    text: str
    llava: bool
    record: dict[str, Any]
    where: str


def read_answers(path: Path, keys: tuple[str, ...], fields: tuple[str, ...], warnings: Warnings) -> list[Answer]:
    """Every line that has an id and a text; what has none, or a number for a text, is named in `warnings`.

    Raises:
        DataError: no line has.
    """
    records = read_records(path, warnings)
    found = []
    for identity, text, i in texts(records, keys, fields, warnings):
        record = records.objects[i]
        given = next(record[f] for f in fields if f in record)
        if not isinstance(given, str):
            warnings.add("answers that are numbers", f"{records.where(i)}: {given!r} is no text; read as {text!r}")
        found.append(Answer(identity, text, "text" in record, record, records.where(i)))
    if not found:
        raise DataError(
            f"{path}: no answer in it; expected JSON lines with {' or '.join(keys)} and {' or '.join(fields)}"
        )
    return found


def latest(answers: list[Answer], questions: Collection[str], warnings: Warnings) -> dict[str, Answer]:
    """The answer to each question. Of several the last counts, as in the published scripts, and it is said.

    Raises:
        DataError: none of them is to one of the questions.
    """
    found: dict[str, Answer] = {}
    for a in answers:
        if a.id in found:
            warnings.add("repeated answers", f"{a.where}: another answer to {a.id}; this one counts")
        found[a.id] = a
    if not found.keys() & set(questions):
        first = f"the answers begin with {answers[0].id[:80]!r}, the questions with {next(iter(questions), None)!r}"
        raise DataError(
            f"no answer is to one of the {len(questions)} questions: {first}; "
            "pass as --data the questions that were answered"
        )
    answered(questions, {i: a.text for i, a in found.items()}, warnings)
    return found
