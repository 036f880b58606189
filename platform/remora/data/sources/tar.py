"""Tar shards in WebDataset's layout: members that follow each other and share a key are one sample.

The key of a member is its name up to the first dot of its last part, the rest says what it is: `.json`, `.txt`, or a
picture. Pictures stay in the tar: a sample has their places. Members of other kinds are left alone.
Source of the layout: https://github.com/webdataset/webdataset (README, "The WebDataset Format").
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, BinaryIO

from remora.data.locations import opened
from remora.data.pictures import Picture
from remora.data.sources.base import Raw, Shard, reading
from remora.data.sources.llava import LONGEST
from remora.data.sources.rows import CAPTIONS, caption
from remora.errors import DataError

SHARD = 64 << 20
"""Bytes of a tar that a worker reads in one go."""
SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
"""Of pictures."""


@dataclass(frozen=True)
class Tar:
    """A `.tar` file, uncompressed."""

    file: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def shards(self) -> Iterator[Shard]:
        first = count = start = end = 0
        keys: set[str] = set()
        with reading(self.file, tarfile.TarError), opened(self.file) as f:
            for key, group in groupby(_members(f), _key):
                if key in keys:
                    raise DataError(
                        f"unreadable dataset file: {self.file}: members of sample {key!r} do not follow each other; "
                        f"pack it again in order (tar --sort=name)"
                    )
                keys.add(key)
                members = list(group)
                if count and members[0].offset - start >= SHARD:
                    yield Shard(self.file, first, start, members[0].offset, members[0].offset - start)
                    first, count = first + count, 0
                start = start if count else members[0].offset
                end = members[-1].offset_data + members[-1].size
                count += 1
        if count:
            yield Shard(self.file, first, start, end, end - start)

    def read(self, shard: Shard) -> Iterator[Raw]:
        with reading(self.file, tarfile.TarError), opened(self.file) as f:
            f.seek(shard.start)
            for key, members in groupby(_members(f, shard.end), _key):
                yield self._sample(f, key, list(members))

    def _sample(self, f: BinaryIO, key: str, members: list[tarfile.TarInfo]) -> Raw:
        """The record of a sample; of one that is none, what is wrong with it."""
        by_kind = {m.name[len(key) + 1 :].lower(): m for m in members}
        if len(by_kind) < len(members):
            return Raw(f"sample {key}: two members have one name")
        if odd := [m.name for m in members if m.type not in (tarfile.REGTYPE, tarfile.AREGTYPE)]:
            return Raw(f"sample {key}: {odd[0]} is a link or another thing without bytes of its own")
        shown = [m for kind, m in by_kind.items() if kind.rpartition(".")[2] in SUFFIXES]
        record: Any = {}
        if "json" in by_kind:
            try:
                record = json.loads(_content(f, by_kind["json"]))
            except (ValueError, RecursionError):
                return Raw(f"sample {key}: its .json is no JSON")
            if not isinstance(record, dict):
                return Raw(f"sample {key}: its .json is no record")
        if "conversations" not in record:
            if "txt" in by_kind:
                text: Any = _content(f, by_kind["txt"]).decode(errors="surrogateescape")
            elif any(name in record for name in CAPTIONS):
                text = next(record[name] for name in CAPTIONS if name in record)
            else:
                return Raw(f"sample {key}: it has neither a conversation nor a caption (.json or .txt)")
            if not shown:
                return Raw(f"sample {key}: it has a caption and no picture")
            record = {"id": record.get("id", key), "conversations": caption(text, len(shown))}
        if not shown:
            return Raw(record)  # of words alone, or its pictures are below the image folder
        held = tuple(Picture(self.file, m.offset_data, m.size) for m in shown)
        return Raw(record | {"image": [m.name for m in shown]}, held)


def _members(f: BinaryIO, end: int | None = None) -> Iterator[tarfile.TarInfo]:
    """The members from where the file stands up to byte `end`, or to a tar's end.

    Raises:
        tarfile.ReadError: the tar is cut, or something in it is no member.
    """
    with tarfile.open(fileobj=f, mode="r:") as tar:
        while (member := tar.next()) and (end is None or member.offset < end):
            tar.members = []  # type: ignore[attr-defined]  # it would keep every one
            if tar.offset <= member.offset:
                raise tarfile.ReadError(f"byte {member.offset}: a member of negative size")
            if not member.isdir() and _key(member):
                yield member
        at = tar.offset
    if end is None:  # tarfile takes whatever is no header for the end
        f.seek(at)
        block = f.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
            raise tarfile.ReadError(f"byte {at}: {'no member' if block else 'the tar is cut'}; pack it again")


def _key(member: tarfile.TarInfo) -> str:
    """Empty for a name that has none (hidden, or without a kind)."""
    folder, slash, name = member.name.rpartition("/")
    stem, dot, _ = name.partition(".")
    return folder + slash + stem if stem and dot else ""


def _content(f: BinaryIO, member: tarfile.TarInfo) -> bytes:
    if member.size > LONGEST:
        raise ValueError(f"{member.name} has {member.size} bytes, more than a record has")
    f.seek(member.offset_data)
    return f.read(member.size)
