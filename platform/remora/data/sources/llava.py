"""Records in JSON: a list, or JSONL with one record per line. Neither is read into memory as a whole.

A file's first characters decide which it is, not its suffix: people have lists in .jsonl files and lines in .json
files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from remora.data.conversation import short
from remora.data.locations import opened
from remora.data.sources.base import Raw, Shard, reading
from remora.data.sources.foreign import HEAD, refuse_foreign
from remora.data.sources.forms import as_llava
from remora.errors import BrokenRecord, DataError

SHARD = 8 << 20
"""Bytes of JSON per shard."""
BLOCK = 1 << 20
LONGEST = 256 << 20
"""Maximum bytes of a record; a longer one means that the file is broken there."""
_SPACE = re.compile(r"[ \t\r\n]*")
_MARK = b"\xef\xbb\xbf"
"""A byte order mark."""


class _Decoder:
    """Decodes JSON, but finds duplicate keys (in Python, the last one wins) and accepts integers of 4,300 digits."""

    def __init__(self, strict: bool) -> None:
        self._repeated = ""
        decoder = json.JSONDecoder(strict=strict, object_pairs_hook=self._mapping, parse_int=_integer)
        self._scan = decoder.raw_decode

    def value(self, text: str) -> object:
        """The value of a text that is one JSON value.

        Raises:
            ValueError, RecursionError: it is not valid JSON.
            BrokenRecord: a mapping in it has a duplicate key.
        """
        self._repeated = ""
        value, end = self._scan(text, 0)
        if end < len(text):
            raise ValueError("something follows the record")
        if self._repeated:
            raise BrokenRecord(self._twice(), "duplicate-key")
        return value

    def record(self, text: str, at: int) -> tuple[Raw, int]:
        """The record at a position of a text, in LLaVA's format, and its end.

        Raises:
            ValueError, RecursionError: there is no JSON value.
        """
        self._repeated = ""
        value, end = self._scan(text, at)
        if self._repeated:
            return Raw(value, problems=(("duplicate-key", self._twice()),)), end
        return as_llava(value), end

    def _twice(self) -> str:
        return f"the key {self._repeated} is in one mapping twice; keep one"

    def _mapping(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) != len(pairs):
            keys = [key for key, _ in pairs]
            self._repeated = short(next(key for key in keys if keys.count(key) > 1))
        return made


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # more digits than Python parses
        return digits


def decoded(content: bytes) -> object:
    """The JSON value of a file with one record.

    Raises:
        BrokenRecord: it is not valid JSON, or has a duplicate key.
    """
    decoder = _Decoder(strict=False)
    try:
        return decoder.value(content.removeprefix(_MARK).decode(errors="surrogateescape").strip())
    except (ValueError, RecursionError) as e:
        raise BrokenRecord(f"its .json is not valid JSON ({_said(e)})", "no-conversation") from None


def _behind_space(text: str, at: int) -> int:
    """Where the next character stands that is not white."""
    found = _SPACE.match(text, at)
    assert found, "the pattern matches everywhere"
    return found.end()


_skip = json.JSONDecoder(strict=False, parse_int=_integer).raw_decode


@dataclass(frozen=True)
class LlavaJson:
    """A `.json` or `.jsonl` file: a list of records, or one per line. Empty lines are skipped."""

    file: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def shards(self) -> Iterator[Shard]:
        with reading(self.file), opened(self.file) as f:
            head = f.read(HEAD)
            refuse_foreign(head, self.file, "JSON")
            f.seek(0)
            yield from self._of_lines(f) if self._has_lines(head) else self._of_list(f)

    def _has_lines(self, head: bytes) -> bool:
        """Whether each line is a record. A list of mappings begins with [{, whatever the file's suffix."""
        starts = b"".join(head.removeprefix(_MARK).split())[:2]
        if self.file.partition("?")[0].endswith(".jsonl"):
            return starts != b"[{"
        return starts[:1] == b"{"

    def _of_list(self, f: BinaryIO) -> Iterator[Shard]:
        first = count = start = end = 0
        for at, end in _spans(f, self.file):
            if count and end - start > SHARD:
                yield Shard(self.file, first, start, at, at - start)
                first, count = first + count, 0
            if not count:
                start = at
            count += 1
        if count:
            yield Shard(self.file, first, start, end, end - start)

    def _of_lines(self, f: BinaryIO) -> Iterator[Shard]:
        first = count = start = at = 0
        for line in _lines_of(f):
            if len(line) > LONGEST:
                raise DataError(f"unreadable dataset file: {self.file}: record {first + count}: too long for a record")
            named = self.file.partition("?")[0].endswith(".jsonl")
            if not (first or count) and line.strip() and (not named or line.strip() == b"{"):
                _refuse_mapping(line, self.file)
            at += len(line)
            count += bool(line.strip())
            if at - start > SHARD:
                yield Shard(self.file, first, start, at, at - start)
                first, count, start = first + count, 0, at
        if count:
            yield Shard(self.file, first, start, at, at - start)

    def read(self, shard: Shard) -> Iterator[Raw]:
        with reading(shard.file), opened(shard.file) as f:
            head = f.read(HEAD)
            f.seek(shard.start)
            content = f.read(shard.end - shard.start)
        return self._lines(content) if self._has_lines(head) else self._list(content)

    def _list(self, content: bytes) -> Iterator[Raw]:
        text, at, decoder = content.decode(errors="surrogateescape"), 0, _Decoder(strict=False)
        while at < len(text):
            try:
                raw, at = decoder.record(text, at)
            except RecursionError:  # checking keys needs more stack than finding the record's end
                raw = Raw(None, problems=(("no-conversation", "the record is nested too deeply"),))
                at = _skip(text, at)[1]
            yield raw
            at = _behind_space(text, at)
            at = _behind_space(text, at + 1)  # over the comma

    def _lines(self, content: bytes) -> Iterator[Raw]:
        decoder = _Decoder(strict=False)
        for line in content.removeprefix(_MARK).split(b"\n"):
            if line.strip():
                text = line.decode(errors="surrogateescape").strip()
                try:
                    raw, end = decoder.record(text, 0)
                    if end < len(text):
                        raise ValueError("something follows the record")
                except (ValueError, RecursionError) as e:
                    raw = Raw(
                        text, problems=(("no-conversation", f"the line is not valid JSON ({_said(e)}): {short(text)}"),)
                    )
                yield raw


def _lines_of(f: BinaryIO) -> Iterator[bytes]:
    """Lines with their line breaks; a line longer than a record is cut."""
    rest = b""
    while block := f.read(BLOCK):
        *lines, rest = (rest + block).split(b"\n") if b"\n" in block else (rest + block,)
        yield from (line + b"\n" for line in lines)
        if len(rest) > LONGEST:
            break
    if rest:
        yield rest


def _refuse_mapping(line: bytes, file: str) -> None:
    """Refuse a .json file that is one mapping. One that begins with a brace is read as lines if its first line is
    JSON."""
    text = line.decode(errors="surrogateescape").removeprefix("\ufeff").strip()
    try:
        value, _ = _skip(text)
    except (ValueError, RecursionError):
        raise DataError(
            f"unreadable dataset file: {file}: it is a mapping over several lines; it should be a JSON list of "
            "records, or a record a line"
        ) from None
    lists = [key for key, inner in value.items() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]
    if lists and not {"conversations", "messages", "texts", "prompt"} & value.keys():
        raise DataError(
            f"unreadable dataset file: {file}: it is a mapping with the lists {', '.join(map(short, lists[:8]))}; it "
            "should be a JSON list of records: write one of them to its own file"
        )


def _spans(f: BinaryIO, name: str) -> Iterator[tuple[int, int]]:
    """Start and end, in bytes, of every record of a JSON list.

    The scanner needs text, so the file is read as Latin-1: every byte is one character, so positions are byte offsets,
    and no byte of a multi-byte UTF-8 character looks like a bracket, a quote or a backslash.

    Raises:
        DataError: the file is not a JSON list, or becomes invalid; the message has the record's number.
    """
    text, base, at = f.read(BLOCK).decode("latin-1"), 0, 0
    if text.startswith("\xef\xbb\xbf"):  # a byte order mark
        at = 3

    def more() -> bool:
        nonlocal text, base, at
        block = f.read(max(BLOCK, len(text) - at)).decode("latin-1")  # doubles for records longer than a block
        if block:
            text, base, at = text[at:] + block, base + at, 0
        return bool(block)

    def token() -> str:
        """The next character that is not white space; empty at the end."""
        nonlocal at
        while True:
            at = _behind_space(text, at)
            if at < len(text):
                return text[at]
            if not more():
                return ""

    count = 0

    def refuse(why: str) -> DataError:
        where = f"{name}: record {count}, byte {base + at}"
        return DataError(f"unreadable dataset file: {where}: {why}; it should be a JSON list of records")

    if (begins := token()) != "[":
        shown = short(text[at : at + 40].encode("latin-1").decode(errors="replace"), 60)
        raise refuse(f"a list begins with '[', here is {shown}" if begins else "the file is empty")
    at += 1
    while (begins := token()) != "]":
        while True:
            try:
                _, end = _skip(text, at)
            except (ValueError, RecursionError) as e:
                if isinstance(e, ValueError) and len(text) - at < LONGEST and more():
                    continue
                raise refuse(_said(e)) from None
            # A number at the end of the text may continue in the next block (-2.5e is read as -2.5).
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


def _said(error: Exception) -> str:
    return str(error).partition(": line ")[0] if isinstance(error, ValueError) else "nested too deeply"
