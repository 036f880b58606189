"""Tar shards in WebDataset's layout: adjacent members with the same key are one sample.

The key of a member is its name up to the first dot of its last part. A sample's text is its `.json` or `.txt`. Its
pictures are those that the JSON names, else the one with the text's name, or `7.0.png`, `7.1.png` by number. Several
text files below one key (`a.txt`, `a.v2.txt`) are separate samples. Pictures stay in the tar: a sample has their byte
ranges. Members that are not read are reported (`Raw.unread`).
Source of the layout: https://github.com/webdataset/webdataset (README, "The WebDataset Format").
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import BinaryIO

from remora.data.conversation import image_field, short
from remora.data.locations import opened
from remora.data.pictures import Picture
from remora.data.sources.base import Raw, Shard, reading
from remora.data.sources.foreign import HEAD, refuse_foreign
from remora.data.sources.forms import CAPTIONS, PICTURES, as_llava, words_of
from remora.data.sources.inline import listed
from remora.data.sources.llava import LONGEST, decoded
from remora.errors import BrokenRecord, DataError

SHARD = 64 << 20
"""Bytes of a tar per shard."""
_DIGITS = re.compile(r"[0-9]{1,9}")
SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
"""Suffixes of pictures."""


@dataclass(frozen=True)
class Tar:
    """A `.tar` file, uncompressed."""

    file: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def shards(self) -> Iterator[Shard]:
        first = count = start = 0
        keys: set[str] = set()
        with reading(self.file, tarfile.TarError), opened(self.file) as f:
            refuse_foreign(f.read(HEAD), self.file, "a tar", "a tar")
            f.seek(0)
            for key, group in groupby(_members(f), _key):
                if key in keys:
                    raise DataError(
                        f"unreadable dataset file: {self.file}: members of sample {short(key)} do not follow each "
                        f"other; pack it again in order (tar --sort=name)"
                    )
                keys.add(key)
                members = list(group)
                if count and members[0].offset - start >= SHARD:
                    yield Shard(self.file, first, start, members[0].offset, members[0].offset - start)
                    first, count, start = first + count, 0, members[0].offset
                count += len(_samples(members))
            end = f.seek(0, 2)
        if count:
            yield Shard(self.file, first, start, end, end - start)

    def read(self, shard: Shard) -> Iterator[Raw]:
        left: list[str] = []
        held: Raw | None = None  # unread members after the last sample are reported with it
        with reading(self.file, tarfile.TarError), opened(self.file) as f:
            f.seek(shard.start)
            for _, group in groupby(_members(f, shard.end, left.append), _key):
                for sample in _samples(list(group)):
                    if held:
                        yield held
                    held = self._record(f, sample)
                    held = replace(held, unread=(*held.unread, *map(_kind, left)))
                    left.clear()
        if held:
            yield replace(held, unread=(*held.unread, *map(_kind, left)))

    def _record(self, f: BinaryIO, sample: _Sample) -> Raw:
        try:
            return self._read(f, sample)
        except BrokenRecord as e:
            return Raw(None, problems=((e.kind, f"sample {short(sample.stem)}: {e}"),))

    def _read(self, f: BinaryIO, sample: _Sample) -> Raw:
        sample.refuse_odd()
        record: dict[str, object] = {}
        passed_by: tuple[str, ...] = ()
        if sample.json:
            content = decoded(_content(f, sample.json))
            if not isinstance(content, dict):
                raise BrokenRecord("its .json is no record", "no-conversation")
            record = content
        named = any(listed(record.get(k)) for k in PICTURES)
        if not named and sample.pictures:
            record = {**record, "image": [m.name for m in sample.pictures]}
        used = [sample.json] if sample.json else []
        if not words_of({k for k, v in record.items() if v is not None} - {*CAPTIONS}):
            given = next((record[k] for k in CAPTIONS if record.get(k) is not None), None)
            if sample.txt:
                used.append(sample.txt)
                text = _text(f, sample.txt)
                if given not in (None, "") and str(given).strip() != text.strip():
                    passed_by = tuple(k for k in CAPTIONS if record.get(k) is not None)
                given = text
            elif given is None:
                raise BrokenRecord(
                    f"it has neither a conversation nor a caption (.json or .txt); it has {sample.listed()}",
                    "no-conversation",
                )
            if not (named or sample.pictures):
                raise BrokenRecord(f"it has a caption and no picture; it has {sample.listed()}", "no-conversation")
            rest = {k: v for k, v in record.items() if k not in CAPTIONS}
            record = {**rest, "id": record.get("id", sample.stem), "caption": given}
        raw = as_llava(record)
        if raw.problems:
            return replace(raw, problems=tuple((k, f"sample {short(sample.stem)}: {why}") for k, why in raw.problems))
        names = image_field(raw.record)
        shown: list[tarfile.TarInfo] = []
        if raw.pictures is None and isinstance(names, list) and sample.shows_any():
            shown = [sample.member(name) for name in names]
        unread = tuple(_kind(m.name, sample.stem) for m in sample.members if m not in used and m not in shown)
        raw = replace(raw, unread=raw.unread + passed_by + unread)
        if not shown:
            return raw  # text only, or its pictures are in the image folder
        held = tuple(Picture(self.file, m.offset_data, m.size) for m in shown)
        return replace(raw, record=raw.record | {"image": [m.name for m in shown]}, pictures=held)


@dataclass
class _Sample:
    """The members of one sample. `stem` is the name of its text file without suffix."""

    stem: str
    members: list[tarfile.TarInfo] = field(default_factory=list)

    @property
    def json(self) -> tarfile.TarInfo | None:
        return self._words("json")

    @property
    def txt(self) -> tarfile.TarInfo | None:
        return self._words("txt")

    @property
    def pictures(self) -> list[tarfile.TarInfo]:
        """The pictures of a record that does not name any: the one with the sample's name, then by number."""
        numbered = [(n, m.name, m) for m in self.members if (n := _number(m.name, self.stem)) is not None]
        return [m for *_, m in sorted(numbered, key=lambda one: one[:2])]

    def listed(self) -> str:
        return ", ".join(short(m.name, 40) for m in self.members[:5]) + (", …" if len(self.members) > 5 else "")

    def shows_any(self) -> bool:
        return any(_suffix(m.name) in SUFFIXES for m in self.members)

    def member(self, name: object) -> tarfile.TarInfo:
        """The picture that a record names: by the whole name, else by its last part.

        Raises:
            BrokenRecord: there is no such member.
        """
        shown = [m for m in self.members if _suffix(m.name) in SUFFIXES]
        called = str(name).removeprefix("./")
        exact = [m for m in shown if m.name.removeprefix("./") == called]
        last = [m for m in shown if m.name.rpartition("/")[2] == called.rpartition("/")[2]]
        if found := exact or last:
            return found[0]
        there = ", ".join(short(m.name, 40) for m in shown[:5])
        raise BrokenRecord(
            f"its .json names {short(name)}; the sample's pictures are {there}; correct the names, or remove them",
            "missing-image",
        )

    def refuse_odd(self) -> None:
        """
        Raises:
            BrokenRecord: two members have the same name, or one is not a regular file.
        """
        if twice := [name for name, n in Counter(m.name for m in self.members).items() if n > 1]:
            raise BrokenRecord(f"two members have the same name, {short(twice[0])}", "no-conversation")
        if odd := [m.name for m in self.members if m.type not in (tarfile.REGTYPE, tarfile.AREGTYPE)]:
            raise BrokenRecord(
                f"{short(odd[0])} is a link or something else that is not a regular file", "no-conversation"
            )

    def _words(self, suffix: str) -> tarfile.TarInfo | None:
        name = f"{self.stem}.{suffix}"
        return next((m for m in self.members if m.name == name or m.name.lower() == name.lower()), None)


def _samples(members: Sequence[tarfile.TarInfo]) -> list[_Sample]:
    """The samples of members with the same key: one, or one for each text file with its own pictures."""
    key = _key(members[0])
    worded = dict.fromkeys(_stem(m.name) for m in members if _suffix(m.name) in ("json", "txt"))
    shown = {stem for m in members if _suffix(m.name) in SUFFIXES for stem in _shown_by(m.name)}
    stems = [stem for stem in worded if stem == key or stem in shown] or [*worded, key][:1]
    samples = {stem: _Sample(stem) for stem in stems}
    for member in members:
        stem = _stem(member.name)
        while stem not in samples and len(stem) > len(key):
            stem = _stem(stem)
        samples.get(stem, samples[stems[0]]).members.append(member)
    return [*samples.values()]


def _suffix(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2].lower()


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _shown_by(name: str) -> Iterator[str]:
    """The stems of samples that a picture may belong to: `7` and `7.0` for `7.0.png`."""
    stem = _stem(name)
    yield stem
    if _DIGITS.fullmatch(stem.rpartition(".")[2]):
        yield _stem(stem)


def _number(name: str, stem: str) -> int | None:
    """A picture's number in its sample: -1 for `7.png`, 10 for `7.10.png`; None for others, such as `7.mask.png`."""
    if _suffix(name) not in SUFFIXES or not name.startswith(stem + "."):
        return None
    between = _stem(name)[len(stem) :]
    return -1 if not between else int(between[1:]) if _DIGITS.fullmatch(between[1:]) else None


def _kind(name: str, stem: str = "") -> str:
    """The pattern by which an unread member is counted: `*.mask.png`, with numbers as N."""
    base = name.rpartition("/")[2]
    if base.startswith("."):  # hidden: macOS keeps a ._7.jpg beside each 7.jpg
        return "._*" if base.startswith("._") else base
    last = name[len(stem) :] if stem and name.startswith(stem + ".") else "." + _suffix(name)
    return "*" + re.sub(r"\d+(?=.*\.)", "N", last)  # not the 4 of .mp4


def _members(
    f: BinaryIO, end: int | None = None, left: Callable[[str], None] = lambda name: None
) -> Iterator[tarfile.TarInfo]:
    """The members from the file's position up to byte `end` or the tar's end; those without a key go to `left`.

    Raises:
        tarfile.ReadError: the tar is truncated, or something in it is not a member.
    """
    with tarfile.open(fileobj=f, mode="r:") as tar:
        while (member := tar.next()) and (end is None or member.offset < end):
            tar.members = []  # type: ignore[attr-defined]  # it would keep every one
            if tar.offset <= member.offset:
                raise tarfile.ReadError(f"byte {member.offset}: a member of negative size")
            if member.isdir():
                continue
            if _key(member):
                yield member
            else:
                left(member.name)
        at = tar.offset
    if end is None:  # tarfile takes anything that is not a header for the end
        f.seek(at)
        block = f.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
            raise tarfile.ReadError(f"byte {at}: {'not a member' if block else 'the tar is truncated'}; pack it again")
        while rest := f.read(1 << 20):
            at += len(rest)
            if rest.strip(b"\0"):
                raise tarfile.ReadError(
                    f"byte {at - len(rest)}: there is data after the tar's end, as if two were concatenated; "
                    "next: tar -xif it, and pack it again"
                )


def _key(member: tarfile.TarInfo) -> str:
    """The key of a member; empty if it has none (a hidden file, or no suffix)."""
    folder, slash, name = member.name.rpartition("/")
    stem, dot, _ = name.partition(".")
    return folder + slash + stem if stem and dot else ""


def _text(f: BinaryIO, member: tarfile.TarInfo) -> str:
    content = _content(f, member)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BrokenRecord(
            f"{short(member.name)} is UTF-16, not UTF-8; next: iconv -f UTF-16 -t UTF-8 FILE > NEW", "not-unicode"
        )
    return content.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")


def _content(f: BinaryIO, member: tarfile.TarInfo) -> bytes:
    if member.size > LONGEST:
        raise BrokenRecord(f"{short(member.name)} has {member.size:,} bytes, more than a record has", "no-conversation")
    f.seek(member.offset_data)
    return f.read(member.size)
