"""Find and read benchmarks' distributed files, anywhere in a folder, and write submission files.

Any problem in a file is a DataError that names the place: a lost question would change the score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from remora.errors import DataError
from remora.evaluation.answers import Warnings, parse, read_records, read_text
from remora.evaluation.hub_tables import parquet_files, parquet_rows

T = TypeVar("T")


def root(data: Path) -> Path:
    """The folder of the data, which may be given as one of its files."""
    return data.parent if data.is_file() else data


def first_file(data: Path, *patterns: str) -> Path | None:
    """The file of the first pattern that matches any; of several the least deep."""
    return next((p for pattern in patterns for p in _sorted(data, pattern) if p.is_file()), None)


def image_folder(data: Path, *names: str) -> Path:
    """The first of these folders that exists, at any depth; the first name if none does, for messages."""
    return next((p for name in names for p in _sorted(data, name) if p.is_dir()), root(data) / names[0])


def _sorted(data: Path, pattern: str) -> list[Path]:
    return sorted(root(data).rglob(pattern), key=lambda p: (len(p.parts), p))


def find(data: Path, *patterns: str, what: str) -> Path:
    """`data` if it is a file, or the first file in that folder, at any depth, that matches one of the patterns.

    Raises:
        DataError: there is none; the message lists the patterns.
    """
    if data.is_file():
        return data
    if not data.exists():
        raise DataError(f"missing {what}: {data} does not exist; expected {' or '.join(patterns)}")
    if found := first_file(data, *patterns):
        return found
    raise DataError(f"missing {what}: no {' or '.join(patterns)} in {data}")


def read_json(path: Path, kind: type[T], hint: str = "download it again") -> T:
    """A JSON file's value of type `kind` (`object`: any); `hint` is what to do if it is not JSON.

    Raises:
        DataError: it is not JSON, or of another type.
    """
    try:
        value = parse(read_text(path))
    except ValueError as e:
        raise DataError(f"{path}: not JSON ({e}); {hint}") from None
    if not isinstance(value, kind):
        raise DataError(f"{path}: holds {type(value).__name__}, expected {kind.__name__}; is it the right file?")
    return value


def field(record: object, name: str, kind: type[T], where: str) -> T:
    """One value of a question; DataError if it is of another type."""
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"{where}: {name} is {str(value)[:60]!r}, expected {kind.__name__}; download the file again")
    return value


def lines(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """(place, object) of each line of a question file in JSON lines; every line must be an object."""
    warnings = Warnings()
    records = read_records(path, warnings)
    if warnings.lines:
        raise DataError(warnings.lines[0])
    if records.mapping is not None:
        raise DataError(f"{path}: one JSON object without a question; expected JSON lines")
    for i, record in enumerate(records.objects):
        yield records.where(i), record


def rows(data: Path, names: Sequence[str], key: str, split: str, what: str) -> tuple[Path, list[dict[str, object]]]:
    """A file and its records: a JSON array, an array under `key`, or the hub's Parquet of that split.

    Raises:
        DataError: no such file, or it has no records.
    """
    if tables := parquet_files(data, split):
        return tables[0], list(parquet_rows(tables, ("image",)))
    path = find(data, *names, what=what)
    raw: object = read_json(path, object, f"expected {what}")
    held = raw.get(key) if isinstance(raw, dict) else raw
    if not isinstance(held, list) or not held:
        has = f"keys {', '.join(list(raw)[:8])}" if isinstance(raw, dict) else type(raw).__name__
        raise DataError(f"{path}: no records under {key!r} ({has}); expected {what}: {' or '.join(names)}")
    for i, row in enumerate(held, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: record {i} is no object: {str(row)[:60]!r}; download the file again")
    return path, held


def unique(path: Path, held: Sequence[dict[str, object]], key: str) -> dict[str, dict[str, object]]:
    """Records by id; DataError for a missing or repeated id, for which the official scripts count one record twice."""
    found: dict[str, dict[str, object]] = {}
    for i, row in enumerate(held, 1):
        identity = row.get(key)
        if not isinstance(identity, (str, int)) or isinstance(identity, bool):
            raise DataError(f"{path}: record {i} has no {key}: {str(row)[:60]}; download the file again")
        if str(identity) in found:
            raise DataError(f"{path}: record {i} repeats {key} {identity}; download the file again")
        found[str(identity)] = row
    return found


def question_id(row: Mapping[str, object]) -> str | int:
    """The id of a record that `unique` has checked, as written in the file."""
    identity = row["question_id"]
    assert isinstance(identity, (str, int))
    return identity


def submission(path: Path, content: str | object) -> list[Path]:
    """Write a submission file: a text unchanged, anything else as JSON, byte for byte as LLaVA's scripts write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return [path]
