"""Tables of words beside an image folder: CSV, TSV, and the `metadata` files of Hugging Face's imagefolder."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass

from remora.data.conversation import image_field
from remora.data.locations import join, opened, parent
from remora.data.sources.base import Raw, Shard, reading
from remora.data.sources.llava import LONGEST, JsonLines
from remora.data.sources.rows import CAPTIONS, PICTURES, columns, row_record
from remora.errors import DataError

SHARD = 8 << 20
"""Bytes of a table that a worker reads in one go."""
csv.field_size_limit(LONGEST)  # the module's own, 128 KiB, is less than a long answer


@dataclass(frozen=True)
class Captions:
    """A `.csv` or `.tsv` file whose first row names its columns. An empty line is no record."""

    file: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def shards(self) -> Iterator[Shard]:
        first = count = end = 0
        rows = self._rows(0)
        header, start = next(rows, ([], 0))
        self._check(header)
        for _, end in rows:
            count += 1
            if end - start >= SHARD:
                yield Shard(self.file, first, start, end, end - start)
                first, count, start = first + count, 0, end
        if count:
            yield Shard(self.file, first, start, end, end - start)

    def read(self, shard: Shard) -> Iterator[Raw]:
        header, _ = next(self._rows(0))
        chosen = set(self._check(header))
        for cells, end in self._rows(shard.start):
            if len(cells) > len(header):
                yield Raw(f"a row of {len(cells)} cells, the header has {len(header)}")
            else:
                found: dict[str, str | None] = dict.fromkeys(header)  # cells that are missing stay None
                found |= zip(header, cells, strict=False)
                found = {name: value for name, value in found.items() if name in chosen}
                raw = row_record(found | {"id": found.get("id") or None})
                yield beside(raw, self.file) if is_metadata(self.file) else raw
            if end >= shard.end:
                return

    def _check(self, header: list[str]) -> list[str]:
        found = columns(header, self.file)
        if not set(found) & set(PICTURES) or not set(found) & {"question", *CAPTIONS}:
            has = " ".join(", ".join(header).split())
            raise DataError(
                f"dataset file {self.file}: its header ({has}) needs image (or file_name, path) "
                f"and caption or text, or question and answer"
            )
        return found

    def _rows(self, start: int) -> Iterator[tuple[list[str], int]]:
        """Cells, and the byte where their row ends. The csv module takes the lines that a row needs, so what was
        taken when it gives one is that row's end, also with line breaks in cells."""
        at = start
        with reading(self.file, csv.Error), opened(self.file) as f:
            f.seek(start)

            def lines() -> Iterator[str]:
                nonlocal at
                for line in f:
                    text = line.decode(errors="surrogateescape")
                    text = text if at else text.removeprefix("\ufeff")
                    at += len(line)
                    yield text

            reader = csv.reader(lines(), "excel-tab" if self.file.endswith(".tsv") else "excel", strict=True)
            try:
                for cells in reader:
                    if cells:
                        yield cells, at
            except csv.Error as e:
                raise ValueError(f"byte {at}: {e}") from None


@dataclass(frozen=True)
class Metadata(JsonLines):
    """imagefolder's `metadata.jsonl`: {"file_name": …, "text": …} a line."""

    def read(self, shard: Shard) -> Iterator[Raw]:
        for raw in super().read(shard):
            if isinstance(raw.record, dict) and "conversations" not in raw.record:
                raw = row_record(raw.record)
            yield beside(raw, self.file)


def is_metadata(file: str) -> bool:
    return file.rpartition("/")[2].startswith("metadata.")


def beside(raw: Raw, file: str) -> Raw:
    """imagefolder's rule: pictures are named from the folder of the table, wherever other pictures are."""
    if not isinstance(raw.record, dict) or raw.pictures is not None:
        return raw
    names = image_field(raw.record)
    if not isinstance(names, list):
        return raw
    placed = [join(parent(file), name) if isinstance(name, str) and name else name for name in names]
    return Raw(raw.record | {"image": placed})
