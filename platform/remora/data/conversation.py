"""Conversations, and LLaVA's JSON that they come in.

A record is `{"id", "image"?, "conversations": [{"from": "human"|"gpt", "value"}, ...]}`; `image` is a path or a list of
paths, and every `<image>` in a human turn takes the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from remora.data.pictures import Picture

TAG = "<image>"
SPEAKERS = ("human", "gpt")
_LONE = re.compile(r"[\ud800-\udfff]")
_NO_PATH = re.compile(r"[\0\n\r\ud800-\udfff]")
"""A line break is no file system's rule, but it comes from broken tables, and messages are of one line."""


@dataclass(frozen=True)
class Turn:
    """One message. `images` counts the pictures that it shows, before its words. A system turn is a conversation's
    first."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: int = 0


@dataclass(frozen=True)
class Sample:
    """One record: its turns, and its pictures in reading order."""

    id: str
    turns: tuple[Turn, ...]
    images: tuple[Picture, ...]


def with_system(turns: Sequence[Turn]) -> tuple[str, Sequence[Turn]]:
    """(system message, the turns after it); an empty message where the first turn is not one."""
    if turns and turns[0].role == "system":
        return turns[0].text, turns[1:]
    return "", turns


Problem = tuple[str, str]
"""(kind, what it is in words); the kinds are docs/data.md's."""


def image_field(record: dict[str, Any]) -> Any:
    """What a record's `image` names: a list of paths, unless it is something that no record may have there."""
    paths = record.get("image") or []
    return [paths] if isinstance(paths, str) else paths


def problems(record: Any) -> Iterator[Problem]:
    """Everything that is wrong with one LLaVA record itself, its pictures' files aside."""
    if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
        found = f"; here is {record[:100]!r}" if isinstance(record, str) else ""
        yield "no-conversation", f"a record needs 'conversations', a list of turns; see docs/data.md{found}"
        return
    said = record["conversations"]
    for i, message in enumerate(said):
        speaker = message.get("from") if isinstance(message, dict) else None
        value = message.get("value") if isinstance(message, dict) else None
        if speaker != SPEAKERS[i % 2] or not isinstance(value, str):
            kind = "unknown-role" if speaker not in SPEAKERS else "turn-order" if isinstance(value, str) else "no-text"
            yield kind, f"turn {i} is from {speaker!r}; turns alternate human, gpt and have a text value"
        elif not value.isascii() and _LONE.search(value):
            yield "not-unicode", f"turn {i} holds half a surrogate pair, which is no character; mend its text"
        elif speaker == "gpt" and not value.strip():
            yield "empty-answer", f"turn {i}: the answer is empty; give it words or remove the record"
    if len(said) % 2 or not said:
        yield "no-answer", "the last turn has no answer; a conversation ends with gpt"
    paths = image_field(record)
    if not isinstance(paths, list) or not all(isinstance(p, str) and not _NO_PATH.search(p) for p in paths):
        yield "image-field", f"image is {paths!r}; it is a path or a list of paths"
        return
    human = (m.get("value") for m in said if isinstance(m, dict) and m.get("from") == "human")
    tags = sum(v.count(TAG) for v in human if isinstance(v, str))
    if len(paths) != tags:
        kind = "image-without-tag" if len(paths) > tags else "tag-without-image"
        yield kind, f"{tags} {TAG} tags but {len(paths)} images; every picture has its tag in a human turn"


def parse_turns(record: dict[str, Any]) -> tuple[Turn, ...]:
    """The turns of a record that has no problem."""
    return tuple(
        Turn("user", m["value"].replace(TAG, "").strip(), m["value"].count(TAG))
        if m["from"] == "human"
        else Turn("assistant", m["value"].strip())
        for m in record["conversations"]
    )
