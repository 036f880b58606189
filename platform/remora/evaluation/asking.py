"""What a model is asked: a published prompt, the pictures that go with it, and the limit of its answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet
from PIL import Image

from remora.data.pixels import decode
from remora.errors import BrokenRecord, DataError


class Shown(Protocol):
    """A picture that is read when it is needed: remora.data.pictures.Picture, or one of those below."""

    def open(self) -> Image.Image:
        """The picture as RGB; BrokenRecord if it is missing or no decoder reads it."""


@dataclass(frozen=True)
class Embedded:
    """A picture whose bytes came with its question, as base64 in MMBench's table."""

    content: bytes = field(repr=False)
    name: str

    def __str__(self) -> str:
        return self.name

    def open(self) -> Image.Image:
        return decode(self.content, self.name)


@dataclass(frozen=True)
class InParquet:
    """A picture in a hub data set's Parquet file: its row, counted inside a row group, and its column.

    The column holds what `datasets` writes for an image: a struct {bytes, path}; or a list of them, of which `nth` is
    meant (SEED-Bench's frames).
    """

    file: str
    row_group: int
    row: int
    column: str
    nth: int = 0

    def __str__(self) -> str:
        return f"{self.file}[row group {self.row_group}, row {self.row}].{self.column}"

    def open(self) -> Image.Image:
        cell = _column(self.file, self.row_group, self.column)[self.row].as_py()
        if isinstance(cell, list):
            cell = cell[self.nth] if self.nth < len(cell) else None
        content = cell.get("bytes") if isinstance(cell, dict) else None
        if not content:
            why = f"missing image: {self} holds no bytes; replace the file or leave its question out"
            raise BrokenRecord(why, "missing-image")
        return decode(content, str(self))


@lru_cache(maxsize=2)
def _column(file: str, row_group: int, column: str) -> Any:
    """Questions about one picture follow each other, and so do the pictures of a row group."""
    return pyarrow.parquet.ParquetFile(file).read_row_group(row_group, columns=[column]).column(column)


@dataclass(frozen=True)
class Question:
    """One question as a model is asked it.

    `text` is the whole published prompt with its suffix, without a place for the picture; pictures come first. `extra`
    is what its answer line carries besides LLaVA's own keys (MMBench: round_id, options, option_char).
    """

    id: str | int
    text: str
    pictures: tuple[Shown, ...]
    max_new_tokens: int
    group: str
    """Equal for questions about one picture: they are asked together and are not independent."""
    prompt: str | None = None
    """What the answer line's `prompt` says if it is not `text` (ScienceQA begins with `<image>` and a line's end)."""
    extra: Mapping[str, Any] = field(default_factory=dict)


UNREADABLE = (OSError, ValueError, pyarrow.ArrowException)
"""What pyarrow raises for a file that is torn, or holds texts that are no UTF-8."""


def parquet_files(folder: Path, split: str, config: str = "") -> list[Path]:
    """A hub data set's files of one split, `config/split-00000-of-00002.parquet` or `data/split-….parquet`, sorted."""
    found = sorted(p for p in folder.rglob(f"{split}-*.parquet") if not config or p.parent.name == config)
    return found or sorted(
        p for p in folder.rglob("*.parquet") if p.parent.name == split and (not config or config in p.parts)
    )


def parquet_rows(files: list[Path], pictures: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Rows in order, without reading the columns named in `pictures`: in their places stand InParquet.

    Raises:
        DataError: a file is no Parquet, or lacks one of those columns.
    """
    for path in files:
        try:
            file = pyarrow.parquet.ParquetFile(path)
            names = [n for n in file.schema_arrow.names if n not in pictures]
            if missing := [n for n in pictures if n not in file.schema_arrow.names]:
                raise DataError(f"{path}: no column {missing[0]!r}; there are {', '.join(file.schema_arrow.names)}")
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=names).to_pylist()
                for i, row in enumerate(rows):
                    yield row | {c: InParquet(str(path), group, i, c) for c in pictures}
        except UNREADABLE as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise DataError(f"{path}: not a whole Parquet file ({reason}); download it again") from None
