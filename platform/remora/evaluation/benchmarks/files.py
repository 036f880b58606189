"""The files that benchmarks are distributed in, wherever they lie in a folder, and what a server takes.

Whatever is wrong in a file ends in a DataError that names the place: a question that is lost would change the score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from remora.errors import DataError
from remora.evaluation.answers import Warnings, parse, read_records, read_text
from remora.evaluation.hub_tables import parquet_files, parquet_rows

T = TypeVar("T")


def root(data: Path) -> Path:
    """The folder of the data, which may be given as one of its files."""
    return data.parent if data.is_file() else data


def first_file(data: Path, *patterns: str) -> Path | None:
    """The file of the first pattern that any matches: the one least deep in the folder."""
    return next((p for pattern in patterns for p in _sorted(data, pattern) if p.is_file()), None)


def image_folder(data: Path, *names: str) -> Path:
    """The first of these folders that is there, at any depth; the first name if none is, for what a message says."""
    return next((p for name in names for p in _sorted(data, name) if p.is_dir()), root(data) / names[0])


def _sorted(data: Path, pattern: str) -> list[Path]:
    return sorted(root(data).rglob(pattern), key=lambda p: (len(p.parts), p))


def find(data: Path, *patterns: str, what: str) -> Path:
    """`data` if it is a file, or the first file in that folder, at any depth, of one of these names or patterns.

    Raises:
        DataError: none is there; it says which are looked for.
    """
    if data.is_file():
        return data
    if not data.exists():
        raise DataError(f"missing {what}: {data} does not exist; expected {' or '.join(patterns)}")
    if found := first_file(data, *patterns):
        return found
    raise DataError(f"missing {what}: no {' or '.join(patterns)} in {data}")


def read_json(path: Path, kind: type[T], hint: str = "download it again") -> T:
    """A JSON file of that kind, or of any with `object`; `hint` is what to do if it is not JSON.

    Raises:
        DataError: it is not JSON, or of another kind.
    """
    try:
        value = parse(read_text(path))
    except ValueError as e:
        raise DataError(f"{path}: not JSON ({e}); {hint}") from None
    if not isinstance(value, kind):
        raise DataError(f"{path}: holds {type(value).__name__}, expected {kind.__name__}; is it the right file?")
    return value


def field(record: Any, name: str, kind: type[T], where: str) -> T:
    """One value of a question; DataError if it is not of that kind."""
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


def rows(data: Path, names: Sequence[str], key: str, split: str, what: str) -> tuple[Path, list[dict[str, Any]]]:
    """A file and its records: a JSON array, an array under `key`, or the hub's Parquet of that split.

    Raises:
        DataError: no such file, or it holds no records.
    """
    if tables := parquet_files(data, split):
        return tables[0], list(parquet_rows(tables, ("image",)))
    path = find(data, *names, what=what)
    raw: Any = read_json(path, object, f"expected {what}")
    held = raw.get(key) if isinstance(raw, dict) else raw
    if not isinstance(held, list) or not held:
        has = f"keys {', '.join(list(raw)[:8])}" if isinstance(raw, dict) else type(raw).__name__
        raise DataError(f"{path}: no records under {key!r} ({has}); expected {what}: {' or '.join(names)}")
    for i, row in enumerate(held, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: record {i} is no object: {str(row)[:60]!r}; download the file again")
    return path, held


def unique(path: Path, held: Sequence[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """Records by id; DataError if one has none or two have the same, as then the official scripts count one twice."""
    found: dict[str, dict[str, Any]] = {}
    for i, row in enumerate(held, 1):
        identity = row.get(key)
        if not isinstance(identity, (str, int)) or isinstance(identity, bool):
            raise DataError(f"{path}: record {i} has no {key}: {str(row)[:60]}; download the file again")
        if str(identity) in found:
            raise DataError(f"{path}: record {i} repeats {key} {identity}; download the file again")
        found[str(identity)] = row
    return found


def submission(path: Path, content: str | object) -> list[Path]:
    """What a server takes: a text as it is, anything else as JSON, byte for byte as LLaVA's scripts write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return [path]
