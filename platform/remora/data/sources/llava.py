"""LLaVA's conversation JSON: one list of records, or JSONL, one record a line. Neither is read whole into memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from remora.data.locations import opened
from remora.data.sources.base import Raw, Shard, reading
from remora.errors import DataError

SHARD = 8 << 20
"""Bytes of JSON that a worker reads in one go."""
BLOCK = 1 << 20
LONGEST = 256 << 20
"""Bytes from which on a record is taken for a file that is broken in it."""
_SPACE = re.compile(r"[ \t\r\n]*")
_SCAN = json.JSONDecoder(strict=False).raw_decode


@dataclass(frozen=True)
class LlavaJson:
    """A `.json` file that holds a list of records."""

    file: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def shards(self) -> Iterator[Shard]:
        first = count = start = end = 0
        with reading(self.file), opened(self.file) as f:
            for at, end in _spans(f, self.file):
                if count and end - start > SHARD:
                    yield Shard(self.file, first, start, at, at - start)
                    first, count = first + count, 0
                if not count:
                    start = at
                count += 1
        if count:
            yield Shard(self.file, first, start, end, end - start)

    def read(self, shard: Shard) -> Iterator[Raw]:
        text = _bytes(shard).decode(errors="surrogateescape")
        at = 0
        while at < len(text):
            record, at = _SCAN(text, at)
            yield Raw(record)
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]  # over the comma


@dataclass(frozen=True)
class JsonLines:
    """A `.jsonl` file. An empty line is no record; one that is no JSON is a problem of its own."""

    file: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def shards(self) -> Iterator[Shard]:
        first = count = start = at = 0
        with reading(self.file), opened(self.file) as f:
            for line in f:
                at += len(line)
                count += bool(line.strip())
                if at - start > SHARD:
                    yield Shard(self.file, first, start, at, at - start)
                    first, count, start = first + count, 0, at
        if count:
            yield Shard(self.file, first, start, at, at - start)

    def read(self, shard: Shard) -> Iterator[Raw]:
        for line in _bytes(shard).split(b"\n"):
            if line.strip():
                try:
                    yield Raw(json.loads(line))
                except (ValueError, RecursionError):
                    yield Raw(line.decode(errors="replace"))


def _bytes(shard: Shard) -> bytes:
    with reading(shard.file), opened(shard.file) as f:
        f.seek(shard.start)
        return f.read(shard.end - shard.start)


def _spans(f: BinaryIO, name: str) -> Iterator[tuple[int, int]]:
    """Start and end, in bytes, of every record of a JSON list.

    The scanner works on text. As Latin-1 every byte is one character, and no byte of a UTF-8 sequence is a bracket, a
    quote or a backslash, so places in the text are places in the file.

    Raises:
        DataError: the file is no JSON list, or stops being one; the record's number is named.
    """
    text, base, at = f.read(BLOCK).decode("latin-1"), 0, 0
    if text.startswith("\xef\xbb\xbf"):  # a byte order mark
        at = 3

    def more() -> bool:
        nonlocal text, base, at
        block = f.read(max(BLOCK, len(text) - at)).decode("latin-1")  # doubles, for a record longer than a block
        if block:
            text, base, at = text[at:] + block, base + at, 0
        return bool(block)

    def token() -> str:
        """The next character that is no space; empty at the end."""
        nonlocal at
        while True:
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            if at < len(text):
                return text[at]
            if not more():
                return ""

    count = 0

    def refuse(why: str) -> DataError:
        where = f"{name}: record {count}, byte {base + at}"
        return DataError(f"unreadable dataset file: {where}: {why}; it should be a JSON list of records")

    if (begins := token()) != "[":
        raise refuse(f"a list begins with '[', here is {begins!r}" if begins else "the file is empty")
    at += 1
    while (begins := token()) != "]":
        while True:
            try:
                _, end = _SCAN(text, at)
            except (ValueError, RecursionError) as e:
                if isinstance(e, ValueError) and len(text) - at < LONGEST and more():
                    continue
                raise refuse(_said(e)) from None
            # A number at the end of what was read may go on in the next block (-2.5e is read as -2.5).
            if (end < len(text) and text[end] in ",] \t\r\n") or not more():
                break
        yield base + at, base + end
        at = end
        count += 1
        separator = token()
        if separator == ",":
            at += 1
            if token() == "]":
                raise refuse("a comma and no record after it")
        elif separator != "]":
            raise refuse("no ',' or ']' after the record" if separator else "the file ends in the middle of the list")
    at += 1
    if token():
        raise refuse("something follows the list")


def _said(error: Exception) -> Any:
    return str(error).partition(": line ")[0] if isinstance(error, ValueError) else "nested too deeply"
