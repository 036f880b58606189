"""Read answer and question files from any source: every line is read or reported, and none stops the rest.

`answer_lines` reads an answer file and `match` gives each question its answer: missing, repeated and unknown answers
are counted and reported there, for every benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remora.errors import DataError

MANY = 20
"""Warnings of one kind that are listed one by one; further ones are counted."""


@dataclass
class Warnings:
    """Warnings about a file, one line each: the first `MANY` of a kind are listed, the rest counted."""

    lines: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, line: str) -> None:
        """`line` describes one case of `kind`, a plural: `lines that are not JSON`."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= MANY:
            # An id may contain half a surrogate pair or a line end, and a warning is printed as one line.
            self.lines.append(line.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n"))

    def all(self) -> list[str]:
        return self.lines + [f"{n - MANY} more {kind}" for kind, n in self.counts.items() if n > MANY]


@dataclass(frozen=True)
class Records:
    """The objects of a JSON file. `numbers` are their lines, or their positions in a JSON array, from 1."""

    path: Path
    objects: list[dict[str, object]]
    numbers: list[int]
    mapping: dict[str, object] | None = None
    """The file's one object, if it is a mapping from ids to values and not a record."""

    def where(self, i: int) -> str:
        return f"{self.path.name}:{self.numbers[i]}"


def read_text(path: Path) -> str:
    """A file's text. Bytes that are not UTF-8 become U+FFFD, as they would never match an answer anyway.

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
    """JSON, or ValueError; also for numbers with thousands of digits and brackets nested thousands deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_records(path: Path, warnings: Warnings, unread: tuple[str, ...] = ()) -> Records:
    """JSON lines, a JSON array of objects, or one JSON object. A line that is not JSON is left out, with a warning.

    Keys in `unread` are dropped: each line of TinyLLaVA Factory's files holds all questions.

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
    entries: list[tuple[int, object]] = []
    if isinstance(whole, list):
        entries = list(enumerate(whole, 1))
    else:
        # Not splitlines, which would also cut at a U+2028 inside an answer.
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                value = parse(line)
            except ValueError as e:
                warnings.add("lines that are not JSON", f"{path.name}:{number}: not JSON ({e}): {line.strip()[:60]!r}")
                continue
            if isinstance(value, dict):
                for key in unread:
                    value.pop(key, None)
            entries.append((number, value))
    objects, numbers = [], []
    for number, value in entries:
        if isinstance(value, dict):
            objects.append(value)
            numbers.append(number)
        else:
            warnings.add("entries that are not objects", f"{path.name}:{number}: not an object: {str(value)[:60]!r}")
    if not objects:
        raise DataError(f"{path}: no record in it; expected JSON lines, a JSON array of objects or one JSON object")
    return Records(path, objects, numbers)


def _is_record(value: dict[str, object]) -> bool:
    """Whether a file with one object is a file of one line."""
    return any(key in value for key in ("question_id", "questionId", "text", "answer", "prediction"))


@dataclass(frozen=True)
class AnswerLine:
    """One line of an answer file. `id` is compared as text: 12 and "12" are equal."""

    id: str
    text: str
    where: str
    """Its file and line, for messages."""
    record: Mapping[str, object] = field(default_factory=dict)

    @property
    def llava(self) -> bool:
        """Whether it is LLaVA's line, whose text its scripts may convert first; official formats have other keys."""
        return "text" in self.record

    @property
    def prompt(self) -> str | None:
        prompt = self.record.get("prompt")
        return prompt if isinstance(prompt, str) else None


def answer_lines(
    source: Path | Records, keys: Sequence[str], fields: Sequence[str], warnings: Warnings
) -> list[AnswerLine]:
    """Every line with an id under one of `keys` and a text under one of `fields`; `warnings` gets the rest.

    Raises:
        DataError: no line has both.
    """
    records = read_records(source, warnings) if isinstance(source, Path) else source
    found = []
    for i, record in enumerate(records.objects):
        where = records.where(i)
        identity = next((record[k] for k in keys if k in record), None)
        said = next((record[f] for f in fields if f in record), None)
        if not isinstance(identity, (str, int, float)) or not isinstance(said, (str, int, float)):
            what = f"no {' or '.join(keys)}" if identity is None else f"no text in {' or '.join(fields)}"
            warnings.add("answers without an id or a text", f"{where}: {what}: {str(record)[:60]}")
            continue
        if not isinstance(said, str):
            warnings.add("answers that are numbers", f"{where}: {said!r} is not text; read as {str(said)!r}")
        found.append(AnswerLine(str(identity), str(said), where, record))
    if not found:
        wanted = f"{' or '.join(keys)} and {' or '.join(fields)}"
        raise DataError(f"{records.path}: no answer in it; expected JSON lines with {wanted}")
    return found


def match(
    lines: Sequence[AnswerLine],
    questions: Collection[str],
    answers: Path,
    warnings: Warnings,
    *,
    missing: str = "it counts as wrong",
    repeated: str = "this one counts",
) -> dict[str, AnswerLine]:
    """The answer to each question, in the answers' order. Of several the last counts, as in published scripts.

    `warnings` gets questions without an answer, repeated answers and answers to unknown questions; `missing` and
    `repeated` say how the first two are scored.

    Raises:
        DataError: no answer matches a question: the files are of different versions or splits.
    """
    found: dict[str, AnswerLine] = {}
    for a in lines:
        if a.id in found:
            warnings.add("repeated answers", f"{a.where}: another answer to {a.id}; {repeated}")
        found[a.id] = a
    known = dict.fromkeys(questions)
    if not found.keys() & known.keys():
        first = f"the answers begin with {next(iter(found), '')[:80]!r}, the questions with {next(iter(known), None)!r}"
        raise DataError(
            f"{answers}: no answer is to one of the {len(known)} questions: {first}; "
            "give as --data the questions that were answered"
        )
    for i in (i for i in known if i not in found):
        warnings.add("questions without an answer", f"question {i} has no answer; {missing}")
    for a in (a for i, a in found.items() if i not in known):
        warnings.add(
            "answers to no question", f"{a.where}: answer to {a.id}, which is not among the questions; left out"
        )
    return {i: a for i, a in found.items() if i in known}
