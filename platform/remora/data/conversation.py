"""Conversations and LLaVA's JSON records.

A record is `{"id", "image"?, "conversations": [{"from": "human"|"gpt", "value"}, ...]}`. `image` is a path or a list of
paths, and every `<image>` in a human turn takes the next one. The first turn may be from `system`. sources/forms.py
converts other formats to this one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict, overload

from remora.data.pictures import Picture

TAG = "<image>"
SPEAKERS = ("human", "gpt")
_LONE = re.compile(r"[\ud800-\udfff]")
_NO_PATH = re.compile(r"[\0\n\r\ud800-\udfff]")
"""File systems allow line breaks, but here they come from broken tables, and messages have one line."""


@dataclass(frozen=True)
class Turn:
    """One message. `images` is the number of its pictures, which come before its text. A system turn can only be the
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


LlavaTurn = TypedDict("LlavaTurn", {"from": Literal["system", "human", "gpt"], "value": str})


class LlavaRecord(TypedDict):
    """A record without problems. It may have other keys."""

    id: NotRequired[object]
    image: NotRequired[str | list[str] | None]
    conversations: list[LlavaTurn]


def with_system(turns: Sequence[Turn]) -> tuple[str, Sequence[Turn]]:
    """(system message, the turns after it). The message is empty if the first turn is not a system turn."""
    if turns and turns[0].role == "system":
        return turns[0].text, turns[1:]
    return "", turns


Problem = tuple[str, str]
"""(kind, description); docs/data.md lists the kinds."""
EXCERPT = 80
"""Maximum characters of a value in a message."""
LONGEST_PART, LONGEST_PATH = 255, 4095
"""Maximum bytes of a file name and of a path on Linux."""


def short(value: object, length: int = EXCERPT) -> str:
    """A value as shown in messages: quoted, on one line, cut if long."""
    held = value[: length + 1] if isinstance(value, str | bytes | list) else value
    try:
        text = repr(held)
    except RecursionError:
        text = f"a {type(value).__name__} that is nested too deeply"
    if len(text) <= length and held == value:
        return text
    if isinstance(value, str | bytes):
        return f"{text[:length]}… ({len(value):,} {'bytes' if isinstance(value, bytes) else 'characters'})"
    return f"{text[:length]}…"


@overload
def image_field(record: LlavaRecord) -> list[str]: ...
@overload
def image_field(record: Mapping[str, object]) -> object: ...
def image_field(record: Mapping[str, object]) -> object:
    """A record's `image` as a list of paths, or unchanged if it is invalid."""
    paths = record.get("image") or []
    return [paths] if isinstance(paths, str) else paths


def problems(record: object) -> Iterator[Problem]:
    """All problems of one LLaVA record, without looking at its picture files.

    Only the first turn out of order is reported: the turns after it are out of order for the same reason.
    """
    said = record.get("conversations") if isinstance(record, dict) else None
    if not isinstance(record, dict) or not isinstance(said, list):
        yield "no-conversation", f"a record needs 'conversations', a list of turns, and this is {short(record)}"
        return
    in_order = True
    for problem in _turn_problems(said):
        in_order = in_order and problem[0] not in ("unknown-role", "turn-order", "no-answer")
        yield problem
    paths = image_field(record)
    if not isinstance(paths, list):
        yield "image-field", f"image is {short(paths)}; it is a path or a list of paths"
        return
    for path in paths:
        if why := _no_path(path):
            yield "image-field", f"image holds {short(path)}, {why}; it is a path or a list of paths"
            return
    human = (m.get("value") for m in said if isinstance(m, dict) and m.get("from") == "human")
    tags = sum(v.count(TAG) for v in human if isinstance(v, str))
    if in_order and len(paths) != tags:
        kind = "image-without-tag" if len(paths) > tags else "tag-without-image"
        yield kind, f"{tags} {TAG} tags but {len(paths)} images; every picture has its tag in a human turn"


def _turn_problems(said: list[object]) -> Iterator[Problem]:
    before = 1 if said and isinstance(said[0], dict) and said[0].get("from") == "system" else 0
    for i, message in enumerate(said):
        speaker = message.get("from") if isinstance(message, dict) else None
        value = message.get("value") if isinstance(message, dict) else None
        expected = "system" if i < before else SPEAKERS[(i - before) % 2]
        if speaker != expected:
            kind = "turn-order" if speaker in (*SPEAKERS, "system") else "unknown-role"
            yield (
                kind,
                f"turn {i} is from {short(speaker)}, not {expected}; turns alternate human, gpt after a system turn",
            )
            return
        if not isinstance(value, str):
            yield "no-text", f"turn {i} is from {speaker} and its value is {short(value)}, not text"
        elif not value.isascii() and _LONE.search(value):
            yield "not-unicode", f"turn {i} holds {lone(value)}"
        elif speaker == "gpt" and not value.strip():
            yield "empty-answer", f"turn {i}: the answer is empty; fill it in or remove the record"
    if len(said) % 2 != before or len(said) == before:
        yield "no-answer", "the last turn has no answer; a conversation ends with gpt"


def lone(text: str) -> str:
    """The problem of a text with a lone surrogate, and its fix.

    Bytes that are not UTF-8 are read as lone surrogates (Python's surrogateescape): U+DC00 plus the byte's value.
    """
    halves = _LONE.findall(text)
    if all("\udc80" <= c <= "\udcff" for c in halves):
        return (
            f"the byte 0x{ord(halves[0]) - 0xDC00:02x}, so the file is not UTF-8 but Latin-1 or the like; "
            "next: iconv -f LATIN1 -t UTF-8 FILE > NEW"
        )
    return "a lone surrogate, which is not a character; fix its text"


def _no_path(path: object) -> str:
    """Why a file cannot have such a name; an empty string if it can."""
    if not isinstance(path, str):
        return "no text"
    if not path.strip():
        return "an empty name"
    if found := _NO_PATH.search(path):
        return "which a picture's name cannot have" if found[0] in "\0\n\r" else lone(path)
    if "://" in path or (path.isascii() and len(path) <= LONGEST_PART):
        return ""
    content = path.encode()
    if len(content) > LONGEST_PATH or any(len(part) > LONGEST_PART for part in content.split(b"/")):
        return "longer than a file name can be"
    return ""


def parse_turns(record: LlavaRecord) -> tuple[Turn, ...]:
    """The turns of a record without problems."""
    said = record["conversations"]
    before = said[0]["from"] == "system"
    system = (Turn("system", said[0]["value"].strip()),) if before and said[0]["value"].strip() else ()
    return system + tuple(
        Turn("user", m["value"].replace(TAG, "").strip(), m["value"].count(TAG))
        if m["from"] == "human"
        else Turn("assistant", m["value"].strip())
        for m in said[before:]
    )


def name_of(record: Mapping[str, object]) -> str | None:
    """A record's id as text; None if it has none."""
    name = record.get("id")
    return None if name is None else str(name) if isinstance(name, str | int | float) else short(name)
