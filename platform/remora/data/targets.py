"""Formats that a dataset can be written in, one class each; sources/ reads all of them.

They keep id, turns and the exact bytes of pictures. LLaVA's JSON and tar shards keep a record's other keys too.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from remora.data.conversation import LlavaRecord, image_field, parse_turns
from remora.data.pictures import Picture
from remora.errors import DataError

ROW_GROUP = 32 << 20
"""A Parquet row group ends after this many bytes of pictures and text, or this many rows."""
ROWS = 1_000
MAGIC = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"RIFF": "webp",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}
"""First bytes of a picture file -> its file suffix."""
NAMES = ".json, .jsonl, .parquet, .csv, .tsv, .tar, name-{00000..}.tar, or a folder (of tar shards)"
_SHARDS = re.compile(r"\{(\d+)\.\.\d*\}")


@dataclass(frozen=True)
class Item:
    """A record without problems, and its pictures: named files, or `embedded` if the source contains them."""

    where: str
    record: LlavaRecord
    pictures: tuple[Picture | bytes, ...]
    embedded: bool

    def contents(self) -> Iterator[bytes]:
        """Each picture's bytes.

        Raises:
            DataError: a picture cannot be read.
        """
        for picture in self.pictures:
            try:
                yield picture if isinstance(picture, bytes) else picture.read()
            except DataError as e:
                raise DataError(f"{self.where}: {e}") from None

    def named(self) -> Iterator[tuple[bytes, str]]:
        """Each picture's bytes and matching file suffix.

        Raises:
            DataError: a picture cannot be read, or has a format without a suffix here.
        """
        for content in self.contents():
            suffix = next((s for start, s in MAGIC.items() if content.startswith(start)), None)
            if suffix is None:
                kinds = ", ".join(sorted(set(MAGIC.values())))
                raise DataError(f"{self.where}: a picture is not one of {kinds}; convert to .parquet, which takes any")
            yield content, suffix


class Target(Protocol):
    """Takes items one by one and writes them below a folder; complete when its block ends."""

    def __enter__(self) -> Target: ...
    def __exit__(self, *error: object) -> None: ...
    def add(self, item: Item) -> None: ...

    def notes(self) -> Iterator[str]:
        """Lines for the user about what has changed."""
        ...


def find_target(target: str, folder: Path, images: str, shard_size: int) -> Target:
    """The target for a file name, written below `folder`.

    Raises:
        DataError: the name has no known format.
    """
    name = Path(target).name
    suffix = Path(target).suffix
    if suffix in (".json", ".jsonl"):
        return JsonTarget(folder / name, images)
    if suffix in (".csv", ".tsv"):
        return TableTarget(folder / name, images)
    if suffix == ".parquet":
        return ParquetTarget(folder / name)
    if suffix == ".tar" and (digits := _SHARDS.search(name)):
        before, after = name[: digits.start()], name[digits.end() :]
        return TarTarget(folder, f"{before}{{:0{len(digits[1])}d}}{after}", int(digits[1]), shard_size)
    if suffix == ".tar":
        return TarTarget(folder, name.replace("{", "{{").replace("}", "}}"), 0, None)
    if not suffix:
        return TarTarget(folder / name, "{:05d}.tar", 0, shard_size)
    raise DataError(f"target {target}: no format has such a name; supported: {NAMES}")


class _Named:
    """Common code of JSON and tables, which name picture files. Files stay where they are; embedded ones are
    written."""

    def __init__(self, file: Path, images: str) -> None:
        self.file, self.images = file, images.rstrip("/")
        self.folder = file.with_name(f"{file.stem}-images")
        self.embedded: bool | None = None

    def names(self, item: Item) -> list[str]:
        if item.pictures:
            if self.embedded is None:
                self.embedded = item.embedded
            if self.embedded != item.embedded:
                raise DataError(
                    f"{item.where}: some pictures of the dataset are files and some are embedded, "
                    f"which this format cannot express; convert to .parquet or .tar"
                )
        if not item.embedded:
            return [name.removeprefix(self.images + "/") for name in image_field(item.record)]
        names = []
        for content, suffix in item.named():
            key = hashlib.sha256(content).hexdigest()[:32]
            path = self.folder / key[:2] / f"{key}.{suffix}"
            if not path.exists():  # records with the same picture share its file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            names.append(str(path.relative_to(self.file.parent)))
        return names

    def notes(self) -> Iterator[str]:
        if self.embedded:
            yield f"pictures were written to {self.folder.name}/, beside it"
        elif self.embedded is not None:
            yield f"pictures stay where they are; read it with --images {self.images}"


class JsonTarget(_Named):
    """LLaVA's JSON: a list, or one record per line."""

    def __enter__(self) -> JsonTarget:
        self._lines = self.file.suffix == ".jsonl"
        self._f = self.file.open("w")
        self._between = "" if self._lines else "[\n"
        return self

    def __exit__(self, *error: object) -> None:
        self._f.write("\n" if self._lines else "\n]\n")
        self._f.close()

    def add(self, item: Item) -> None:
        record = {key: value for key, value in item.record.items() if value is not None and key != "image"}
        if names := self.names(item):
            record["image"] = names[0] if len(names) == 1 else names
        self._f.write(self._between + json.dumps(record, default=str))
        self._between = "\n" if self._lines else ",\n"


class TableTarget(_Named):
    """CSV or TSV: one question about one picture per row."""

    def __init__(self, file: Path, images: str) -> None:
        super().__init__(file, images)
        self._left_out = _LeftOut()

    def __enter__(self) -> TableTarget:
        self._f = self.file.open("w", newline="")
        self._csv = csv.writer(self._f, "excel-tab" if self.file.suffix == ".tsv" else "excel", lineterminator="\n")
        self._csv.writerow(["id", "image", "question", "answer"])
        return self

    def __exit__(self, *error: object) -> None:
        self._f.close()

    def add(self, item: Item) -> None:
        turns = parse_turns(item.record)
        if len(turns) != 2 or len(item.pictures) != 1:
            raise DataError(
                f"{item.where}: {len(turns)} turns and {len(item.pictures)} pictures; a row holds one question and its "
                f"answer about one picture; convert to .jsonl, .parquet or .tar"
            )
        self._left_out.see(item.record)
        (name,) = self.names(item)
        with _unicode(item):
            self._csv.writerow([_id(item.record) or "", name, turns[0].text, turns[1].text])

    def notes(self) -> Iterator[str]:
        yield from super().notes()
        yield from self._left_out.notes()


class ParquetTarget:
    """Parquet with embedded pictures: columns id, conversations and images, as Hugging Face's viewers read them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._rows: list[dict[str, object]] = []
        self._bytes = 0
        self._left_out = _LeftOut()

    def __enter__(self) -> ParquetTarget:
        import pyarrow
        import pyarrow.parquet

        text = pyarrow.string()
        turn = pyarrow.struct([("from", text), ("value", text)])
        picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", text)])
        self._schema = pyarrow.schema(
            [("id", text), ("conversations", pyarrow.list_(turn)), ("images", pyarrow.list_(picture))]
        )
        self._table = pyarrow.RecordBatch.from_pylist
        self._writer = pyarrow.parquet.ParquetWriter(self.file, self._schema)
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._flush()
        self._writer.close()

    def add(self, item: Item) -> None:
        self._left_out.see(item.record)
        said = [{"from": turn["from"], "value": turn["value"]} for turn in item.record["conversations"]]
        names = image_field(item.record)
        shown = [{"bytes": c, "path": n} for c, n in zip(item.contents(), names, strict=True)]
        row: dict[str, object] = {"id": _id(item.record), "conversations": said, "images": shown}
        with _unicode(item):
            self._bytes += len(str(row["id"]).encode())
        self._bytes += sum(len(p["bytes"]) for p in shown) + sum(len(t["value"]) for t in said)
        self._rows.append(row)
        if self._bytes >= ROW_GROUP or len(self._rows) >= ROWS:
            self._flush()

    def notes(self) -> Iterator[str]:
        return self._left_out.notes()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(self._table(self._rows, self._schema))
        self._rows, self._bytes = [], 0


class TarTarget:
    """Tar shards: a `.json` and a record's pictures, adjacent and named by its number."""

    def __init__(self, folder: Path, pattern: str, number: int, shard_size: int | None) -> None:
        self.folder, self.pattern, self.number, self.shard_size = folder, pattern, number, shard_size
        self._count = 0
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> TarTarget:
        self.folder.mkdir(exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._tar:
            self._tar.close()

    def add(self, item: Item) -> None:
        shown = list(item.named())
        if self._tar and self.shard_size and self._tar.offset >= self.shard_size:
            self._tar.close()
            self._tar = None
        if self._tar is None:
            self._tar = tarfile.open(self.folder / self.pattern.format(self.number), "w")  # noqa: SIM115
            self.number += 1
        key = f"{self._count:09d}"
        names = [f"{key}.{suffix}" if len(shown) == 1 else f"{key}.{i}.{suffix}" for i, (_, suffix) in enumerate(shown)]
        record = {name: value for name, value in item.record.items() if value is not None and name != "image"}
        if names:
            record["image"] = names
        self._write(f"{key}.json", json.dumps(record, default=str).encode())
        for name, (content, _) in zip(names, shown, strict=True):
            self._write(name, content)
        self._tar.members = []  # type: ignore[attr-defined]  # it would keep every one
        self._count += 1

    def notes(self) -> Iterator[str]:
        yield from ()

    def _write(self, name: str, content: bytes) -> None:
        assert self._tar
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))


class _LeftOut:
    """Collects keys of records without a column in the table."""

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}

    def see(self, record: LlavaRecord) -> None:
        more = record.keys() - {"id", "image", "conversations"}
        turns = {f"conversations.{k}" for t in record["conversations"] for k in t.keys() - {"from", "value"}}
        self._keys |= dict.fromkeys(sorted(more | turns))

    def notes(self) -> Iterator[str]:
        if self._keys:
            yield f"left out, because there is no column: {', '.join(self._keys)}"


def _id(record: LlavaRecord) -> str | None:
    return None if record.get("id") is None else str(record["id"])


@contextmanager
def _unicode(item: Item) -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError:
        raise DataError(f"{item.where}: its id has a lone surrogate, which is not a character; fix it") from None
