"""Conversations, and LLaVA's JSON that they come in.

A record is `{"id", "image"?, "conversations": [{"from": "human"|"gpt", "value"}, ...]}`; `image` is a path or a list of
paths, and every `<image>` in a human turn takes the next one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from remora.errors import DataError

TAG = "<image>"


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


def parse_record(record: Any, images: Path, where: str) -> Sample:
    """One LLaVA record as a `Sample`.

    Raises:
        DataError: an unknown role, turns out of order, an empty answer, or pictures and tags that do not match.
    """
    if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
        raise DataError(f"{where}: a record needs 'conversations', a list of turns; see docs/start.md")
    turns: list[Turn] = []
    for i, message in enumerate(record["conversations"]):
        expected = ("human", "gpt")[i % 2]
        speaker = message.get("from") if isinstance(message, dict) else None
        value = message.get("value") if isinstance(message, dict) else None
        if speaker != expected or not isinstance(value, str):
            raise DataError(f"{where}: turn {i} is from {speaker!r}; turns alternate human, gpt and have a text value")
        if expected == "gpt":
            if not value.strip():
                raise DataError(f"{where}: turn {i}: the answer is empty; give it words or remove the record")
            turns.append(Turn("assistant", value.strip()))
        else:
            turns.append(Turn("user", value.replace(TAG, "").strip(), value.count(TAG)))
    if not turns or turns[-1].role != "assistant":
        raise DataError(f"{where}: the last turn has no answer; a conversation ends with gpt")
    paths = record.get("image") or []
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(paths, list) or not all(isinstance(p, str) for p in paths):
        raise DataError(f"{where}: image is {paths!r}; it is a path or a list of paths")
    tags = sum(t.images for t in turns)
    if len(paths) != tags:
        raise DataError(
            f"{where}: {tags} {TAG} tags but {len(paths)} images; every picture has its tag in a human turn"
        )
    return Sample(str(record.get("id", where)), tuple(turns), tuple(images / p for p in paths))


def read_llava_json(path: Path, images: Path, hint: str = "") -> list[Sample]:
    """Every record of a LLaVA JSON file.

    Raises:
        DataError: the file is missing or not a JSON list, or a record is not as it should be (named by its number).
    """
    try:
        records = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"missing dataset file: {path}{hint}") from None
    except (OSError, ValueError) as e:
        raise DataError(f"unreadable dataset file: {path}: {e}; it should be a JSON list of records") from None
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: expected a JSON list with records, found {type(records).__name__} of no use")
    return [parse_record(r, images, f"{path}: record {i}") for i, r in enumerate(records)]
