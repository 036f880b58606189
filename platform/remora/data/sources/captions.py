"""Tables of text beside an image folder: CSV, TSV, and the `metadata` files of Hugging Face's imagefolder."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace

from remora.data.conversation import image_field, short
from remora.data.locations import join, opened, parent
from remora.data.sources.base import Raw, Shard, reading
from remora.data.sources.foreign import HEAD, refuse_foreign
from remora.data.sources.forms import BESIDE, ELSE, PICTURES, as_llava
from remora.data.sources.llava import LONGEST, LlavaJson
from remora.data.sources.rows import columns
from remora.errors import DataError

SHARD = 8 << 20
"""Bytes of a table per shard."""
SEPARATORS = {
    ";": "write it with commas",
    "|": "write it with commas",
    "\t": "name it .tsv",
    ",": "name it .csv",
}
"""Other separators, in a header that was read as one cell -> advice."""
csv.field_size_limit(LONGEST)  # the default, 128 KiB, is too short for long answers


@dataclass(frozen=True)
class Captions:
    """A `.csv` or `.tsv` file with a header row. Empty lines are skipped."""

    file: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    @property
    def _dialect(self) -> str:
        return "excel-tab" if self.file.partition("?")[0].endswith(".tsv") else "excel"

    def shards(self) -> Iterator[Shard]:
        with reading(self.file), opened(self.file) as f:
            refuse_foreign(f.read(HEAD), self.file, "a table of text")
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
        names, left = self._check(header)
        header = [name.strip() for name in header]
        for cells, end in self._rows(shard.start):
            if len(cells) > len(header):
                why = f"a row of {len(cells)} cells, the header has {len(header)}; quote cells that hold the separator"
                yield Raw(None, problems=(("no-conversation", why),))
            else:
                found: dict[str, str | None] = dict.fromkeys(header)  # missing cells stay None
                found |= zip(header, cells, strict=False)
                found = {name: value for name, value in found.items() if name in names}
                raw = as_llava(found | {"id": found.get("id") or None}, left)
                yield beside(raw, self.file) if is_metadata(self.file) else raw
            if end >= shard.end:
                return

    def _check(self, header: list[str]) -> tuple[list[str], tuple[str, ...]]:
        if len(header) == 1 and (other := next((s for s in SEPARATORS if s in header[0]), "")):
            raise DataError(
                f"dataset file {self.file}: its header is the one cell {short(header[0])}, separated by {other!r}; "
                f"next: {SEPARATORS[other]}"
            )
        found, left = columns([name.strip() for name in header], self.file)
        if not {*found} & {*PICTURES, *ELSE, *BESIDE}:
            has = ", ".join(map(short, header))
            raise DataError(f"dataset file {self.file}: its header ({has}) needs image (or file_name, path)"[:1000])
        return found, left

    def _rows(self, start: int) -> Iterator[tuple[list[str], int]]:
        """Cells, and the byte where their row ends. The csv module reads exactly the lines that a row needs, so the
        position after each row is right even with line breaks in cells."""
        at = start
        with reading(self.file, csv.Error), opened(self.file) as f:

            def lines() -> Iterator[str]:
                nonlocal at
                for line in f:
                    text = _text(line, first=not at)
                    at += len(line)
                    yield text

            try:
                # If the header has blanks after its separators, the rows do too, and they are not part of the cells.
                header = next(csv.reader([_text(f.readline(), True)], self._dialect), [])
                spaced = any(cell.startswith(" ") for cell in header)
                f.seek(start)
                for cells in csv.reader(lines(), self._dialect, strict=True, skipinitialspace=spaced):
                    if cells:
                        yield [cell.strip() for cell in cells] if spaced else cells, at
            except csv.Error as e:
                if "new-line" in str(e):  # the module's advice is about Python's open
                    raise ValueError("its lines end in CR only; next: tr '\\r' '\\n' < FILE > NEW") from None
                raise ValueError(f"byte {at}: {e}") from None


@dataclass(frozen=True)
class Metadata(LlavaJson):
    """imagefolder's `metadata.jsonl`: one {"file_name": …, "text": …} per line."""

    def read(self, shard: Shard) -> Iterator[Raw]:
        return (beside(raw, self.file) for raw in super().read(shard))


def _text(line: bytes, first: bool) -> str:
    text = line.decode(errors="surrogateescape")
    return text.removeprefix("\ufeff") if first else text


def is_metadata(file: str) -> bool:
    return file.rpartition("/")[2].startswith("metadata.")


def beside(raw: Raw, file: str) -> Raw:
    """imagefolder's rule: picture names are relative to the table's folder, whatever the image folder is."""
    if raw.problems or not isinstance(raw.record, dict) or raw.pictures is not None:
        return raw
    names = image_field(raw.record)
    if not names or not isinstance(names, list):
        return raw
    placed = [join(parent(file), name) if isinstance(name, str) and name else name for name in names]
    return replace(raw, record=raw.record | {"image": placed})
