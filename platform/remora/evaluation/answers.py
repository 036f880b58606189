"""Answer and question files as anything may have written them: every line is read or named, and none stops the rest."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remora.errors import DataError

MANY = 20
"""Lines of one kind that are named one by one; of more, the number is given."""


@dataclass
class Warnings:
    """What is worth knowing about a file, a sentence each; the first `MANY` of a kind by name, then their number."""

    lines: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, line: str) -> None:
        """`line` names one case of `kind`, which is said of all of them: `answers that are no JSON`."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= MANY:
            # An id may hold half a surrogate pair or a line's end, and a warning is printed as one line.
            self.lines.append(line.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n"))

    def all(self) -> list[str]:
        return self.lines + [f"{n - MANY} more {kind}" for kind, n in self.counts.items() if n > MANY]


@dataclass(frozen=True)
class Records:
    """The objects of a JSON file. `numbers` are their lines, or in a JSON array their places counted from 1."""

    path: Path
    objects: list[dict[str, Any]]
    numbers: list[int]
    mapping: dict[str, Any] | None = None
    """The file's one object, when it is a mapping from ids to something and no record."""

    def where(self, i: int) -> str:
        return f"{self.path.name}:{self.numbers[i]}"


def read_text(path: Path) -> str:
    """A file's text. Bytes that are no UTF-8 become U+FFFD, as they would never match an answer anyway.

    Raises:
        DataError: it is missing or a folder.
    """
    try:
        return path.read_bytes().decode("utf-8-sig", errors="replace")
    except FileNotFoundError:
        raise DataError(f"missing file: {path}; see that the path is right") from None
    except OSError as e:
        raise DataError(f"unreadable file: {path} ({e.strerror})") from None


def parse(text: str) -> Any:
    """JSON, or ValueError: also for numbers of thousands of digits and brackets nested by thousands."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_records(path: Path, warnings: Warnings) -> Records:
    """JSON lines, a JSON array of objects, or one JSON object. A line that is none is named in `warnings` and left out.

    Raises:
        DataError: the file is missing, or nothing in it can be read.
    """
    text = read_text(path)
    try:
        whole = parse(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and not _is_record(whole):
        return Records(path, [], [], whole)
    entries: list[tuple[int, Any]] = []
    if isinstance(whole, list):
        entries = list(enumerate(whole, 1))
    else:
        # Not splitlines, which would also cut at a U+2028 inside an answer.
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                entries.append((number, parse(line)))
            except ValueError as e:
                warnings.add("lines that are no JSON", f"{path.name}:{number}: not JSON ({e}): {line.strip()[:60]!r}")
    objects, numbers = [], []
    for number, value in entries:
        if isinstance(value, dict):
            objects.append(value)
            numbers.append(number)
        else:
            warnings.add("entries that are no objects", f"{path.name}:{number}: not an object: {str(value)[:60]!r}")
    if not objects:
        raise DataError(f"{path}: no record in it; expected JSON lines, a JSON array of objects or one JSON object")
    return Records(path, objects, numbers)


def _is_record(value: dict[str, Any]) -> bool:
    """Whether a file that is one object is a file of one line."""
    return any(key in value for key in ("question_id", "questionId", "text", "answer", "prediction"))


def texts(
    records: Records, keys: Iterable[str], fields: Iterable[str], warnings: Warnings
) -> list[tuple[str, str, int]]:
    """(id, text, index) of every record that has one of `keys` and one of `fields`; numbers become their text.

    Ids are compared as text: 12 and "12" are one. Records without are named in `warnings`.
    """
    found = []
    for i, record in enumerate(records.objects):
        identity = next((record[k] for k in keys if k in record), None)
        said = next((record[f] for f in fields if f in record), None)
        if isinstance(identity, (str, int)) and isinstance(said, (str, int, float)):
            found.append((str(identity), said if isinstance(said, str) else str(said), i))
            continue
        what = f"no {' or '.join(keys)}" if identity is None else f"no text in {' or '.join(fields)}"
        warnings.add("answers without an id or a text", f"{records.where(i)}: {what}: {str(record)[:60]}")
    return found


def by_id(records: Records, keys: Iterable[str], fields: Iterable[str], warnings: Warnings) -> dict[str, str]:
    """Text by id. Of several answers to one question the last counts, as in the published scripts, and it is said."""
    keys, fields = tuple(keys), tuple(fields)
    found: dict[str, str] = {}
    for identity, text, i in texts(records, keys, fields, warnings):
        if identity in found:
            warnings.add("repeated answers", f"{records.where(i)}: another answer to {identity}; this one counts")
        found[identity] = text
    return found


def answered(questions: Iterable[str], answers: dict[str, str], warnings: Warnings) -> None:
    """Name questions without an answer, which count as wrong, and answers to no question, which count for nothing."""
    known = dict.fromkeys(questions)
    for identity in (i for i in known if i not in answers):
        warnings.add("questions without an answer", f"question {identity} has no answer; it counts as wrong")
    for identity in (i for i in answers if i not in known):
        warnings.add("answers to no question", f"answer to {identity}, which the questions do not hold; left out")


def find(data: Path, *names: str, what: str) -> Path:
    """`data` if it is a file, or the first file in that folder, at any depth, of one of these names or patterns.

    Raises:
        DataError: none is there; it says which are looked for.
    """
    if data.is_file():
        return data
    if not data.exists():
        raise DataError(f"missing {what}: {data} does not exist; expected {' or '.join(names)}")
    for name in names:
        found = sorted(data.rglob(name), key=lambda p: (len(p.parts), p))
        if found:
            return found[0]
    raise DataError(f"missing {what}: no {' or '.join(names)} in {data}")
