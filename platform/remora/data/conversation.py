"""Conversations, and LLaVA's JSON that they come in.

A record is `{"id", "image"?, "conversations": [{"from": "human"|"gpt", "value"}, ...]}`; `image` is a path or a list of
paths, and every `<image>` in a human turn takes the next one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from remora.errors import DataError

TAG = "<image>"
SPEAKERS = ("human", "gpt")


@dataclass(frozen=True)
class Turn:
    """One message. `images` counts the pictures that it shows, before its words."""

    role: Literal["user", "assistant"]
    text: str
    images: int = 0


@dataclass(frozen=True)
class Sample:
    """One record: its turns, and its picture files in reading order."""

    id: str
    turns: tuple[Turn, ...]
    images: tuple[Path, ...]


Problem = tuple[str, str]
"""(kind, what it is in words); the kinds are docs/data.md's."""


def image_field(record: dict[str, Any]) -> Any:
    """What a record's `image` names: a list of paths, unless it is something that no record may have there."""
    paths = record.get("image") or []
    return [paths] if isinstance(paths, str) else paths


def problems(record: Any) -> Iterator[Problem]:
    """Everything that is wrong with one LLaVA record itself, its pictures' files aside."""
    if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
        yield "no-conversation", "a record needs 'conversations', a list of turns; see docs/data.md"
        return
    said = record["conversations"]
    for i, message in enumerate(said):
        speaker = message.get("from") if isinstance(message, dict) else None
        value = message.get("value") if isinstance(message, dict) else None
        if speaker != SPEAKERS[i % 2] or not isinstance(value, str):
            kind = "unknown-role" if speaker not in SPEAKERS else "turn-order" if isinstance(value, str) else "no-text"
            yield kind, f"turn {i} is from {speaker!r}; turns alternate human, gpt and have a text value"
        elif speaker == "gpt" and not value.strip():
            yield "empty-answer", f"turn {i}: the answer is empty; give it words or remove the record"
    if len(said) % 2 or not said:
        yield "no-answer", "the last turn has no answer; a conversation ends with gpt"
    paths = image_field(record)
    if not isinstance(paths, list) or not all(isinstance(p, str) for p in paths):
        yield "image-field", f"image is {paths!r}; it is a path or a list of paths"
        return
    human = (m.get("value") for m in said if isinstance(m, dict) and m.get("from") == "human")
    tags = sum(v.count(TAG) for v in human if isinstance(v, str))
    if len(paths) != tags:
        kind = "image-without-tag" if len(paths) > tags else "tag-without-image"
        yield kind, f"{tags} {TAG} tags but {len(paths)} images; every picture has its tag in a human turn"


def parse_record(record: Any, images: Path, where: str) -> Sample:
    """One LLaVA record as a `Sample`.

    Raises:
        DataError: the first of its problems.
    """
    for _, problem in problems(record):
        raise DataError(f"{where}: {problem}")
    turns = tuple(
        Turn("user", m["value"].replace(TAG, "").strip(), m["value"].count(TAG))
        if m["from"] == "human"
        else Turn("assistant", m["value"].strip())
        for m in record["conversations"]
    )
    return Sample(str(record.get("id", where)), turns, tuple(images / p for p in image_field(record)))


def read_records(path: Path, hint: str = "") -> list[Any]:
    """Every record of a JSON list, or of a JSONL file (one record a line), as plain values.

    A line of a JSONL file that is no JSON comes as a string, which no record is: whoever reads it will name it.

    Raises:
        DataError: the file is missing, is no such file, or is empty.
    """
    try:
        content = path.read_bytes()
        records = _lines(content) if path.suffix == ".jsonl" else json.loads(content)
    except FileNotFoundError:
        raise DataError(f"missing dataset file: {path}{hint}") from None
    except (OSError, ValueError, RecursionError) as e:
        raise DataError(f"unreadable dataset file: {path}: {e}; it should be a JSON list of records") from None
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: expected a JSON list with records, found {type(records).__name__} of no use")
    return records


def _lines(content: bytes) -> list[Any]:
    records: list[Any] = []
    for line in content.splitlines():
        if line.strip():
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError):
                records.append(line.decode(errors="replace"))
    return records


def read_llava_json(path: Path, images: Path, hint: str = "") -> list[Sample]:
    """Every record of a LLaVA JSON or JSONL file.

    Raises:
        DataError: the file is missing or not a JSON list, or a record is not as it should be (named by its number).
    """
    return [parse_record(r, images, f"{path}: record {i}") for i, r in enumerate(read_records(path, hint))]
