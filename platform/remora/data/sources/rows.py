"""Rows of tables as LLaVA records: which columns hold what. Parquet, Arrow, CSV and tar shards share these rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from remora.data.conversation import TAG
from remora.data.sources.base import Raw
from remora.errors import DataError

PICTURES = ("image", "images", "file_name", "path")
CAPTIONS = ("caption", "text")
LAYOUTS = (
    "conversations (and image or images); images and texts; question and answer (and image or images); "
    "image and caption or text"
)
Turns = list[dict[str, Any]]


def columns(names: Collection[str], file: str) -> list[str]:
    """The columns of a table that make a record, first those with the words; the order in which layouts are tried.

    Raises:
        DataError: they make none; what the table has is named.
    """
    repeated = sorted({n for n in names if list(names).count(n) > 1})
    shown = [n for n in PICTURES if n in names][:1]
    captions = [n for n in CAPTIONS if n in names][:1]
    if "conversations" in names:
        words: list[str] = ["conversations"]
    elif "texts" in names:
        words = ["texts"]
    elif "question" in names and "answer" in names:
        words = ["question", "answer"]
    else:
        words = captions if shown else []
    found = [*words, *shown, *(n for n in ("id",) if n in names)]
    if not words or set(found) & set(repeated):
        has = " ".join(", ".join(names).split()) or "none"
        raise DataError(f"dataset file {file}: its columns ({has}) make no record; a record needs {LAYOUTS}"[:1000])
    return found


def row_record(row: Mapping[str, Any]) -> Raw:
    """A row's record. What is of the wrong type stays as it is, for `conversation.problems` to name."""
    shown = next((row[n] for n in PICTURES if n in row), None)
    listed = shown if isinstance(shown, list) else [shown] if shown not in (None, "") else []
    held = [_picture(p) for p in listed]
    if "conversations" in row:
        said = row["conversations"]
    elif "texts" in row:
        said = _rounds(row["texts"])
        with_tags(said, len(held))
    elif "question" in row:
        said = turns([(row["question"], row["answer"])])
        with_tags(said, len(held))
    else:
        said = caption(next((row[n] for n in CAPTIONS if n in row), None), max(1, len(held)))
    record = {"id": row.get("id"), "conversations": said}
    if held and all(isinstance(p, bytes) for p in held):
        return Raw(record | {"image": ["embedded"] * len(held)}, tuple(held))
    # A record whose pictures are partly names and partly bytes is none: `None` is no name.
    return Raw(record | {"image": [None if isinstance(p, bytes) else p for p in held]})


def turns(rounds: Iterable[tuple[Any, Any]]) -> Turns:
    """Questions and answers as LLaVA's turns."""
    return [{"from": who, "value": value} for both in rounds for who, value in zip(("human", "gpt"), both, strict=True)]


def caption(text: Any, pictures: int = 1) -> Turns:
    """A caption's conversation: the human shows the picture and says nothing."""
    return turns([(TAG * pictures, text)])


def with_tags(said: Any, pictures: int) -> None:
    """Show all pictures before the first question, unless the questions say themselves where they are."""
    asked = [t for t in said if t["from"] == "human" and isinstance(t["value"], str)] if isinstance(said, list) else []
    if pictures and asked and not any(TAG in t["value"] for t in asked):
        asked[0]["value"] = f"{TAG * pictures}\n{asked[0]['value']}"


def _rounds(texts: Any) -> Any:
    if not isinstance(texts, list):
        return None
    return turns((t.get("user"), t.get("assistant")) if isinstance(t, dict) else (None, None) for t in texts)


def _picture(value: Any) -> Any:
    """Bytes where the row holds the picture, its name where it has that alone."""
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    return value if isinstance(value, bytes | str) else None
