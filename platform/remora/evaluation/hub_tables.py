"""Parquet files of hub datasets: rows without their pictures, which stay in the file until a model is asked.

pyarrow and the decoders are loaded when the first file is read: most benchmarks are scored from JSON.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remora.errors import BrokenRecord, DataError

if TYPE_CHECKING:
    import pyarrow.parquet
    from PIL import Image


@dataclass(frozen=True)
class InParquet:
    """A picture in a Parquet file: its row within a row group, and its column.

    The column holds images as `datasets` writes them: a struct {bytes, path}; or a list of them, with `nth` as the
    index (SEED-Bench's frames).
    """

    file: str
    row_group: int
    row: int
    column: str
    nth: int = 0

    def __str__(self) -> str:
        return f"{self.file}[row group {self.row_group}, row {self.row}].{self.column}"

    def open(self) -> Image.Image:
        from remora.data.pixels import decode

        cell = _column(self.file, self.row_group, self.column)[self.row].as_py()
        if isinstance(cell, list):
            cell = cell[self.nth] if self.nth < len(cell) else None
        content = cell.get("bytes") if isinstance(cell, dict) else None
        if not content:
            why = f"missing image: {self} holds no bytes; replace the file or leave its question out"
            raise BrokenRecord(why, "missing-image")
        return decode(content, str(self))


@lru_cache(maxsize=2)
def _column(file: str, row_group: int, column: str) -> pyarrow.ChunkedArray:
    """A column of one row group, cached: consecutive questions mostly share a picture or its row group."""
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(file).read_row_group(row_group, columns=[column]).column(column)


@contextmanager
def _whole(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    """An open file; DataError if it is truncated, or has text that is not UTF-8."""
    import pyarrow.parquet

    try:
        yield pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError, pyarrow.ArrowException) as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise DataError(f"{path}: not a whole Parquet file ({reason}); download it again") from None


def parquet_files(data: Path, split: str, config: str = "") -> list[Path]:
    """`data` if it is a Parquet file, else the files of one split below it, sorted: `config/split-00000-of-….parquet`,
    `data/split-….parquet` or `split/….parquet`."""
    if data.is_file() and data.suffix == ".parquet":
        return [data]
    found = sorted(p for p in data.rglob(f"{split}-*.parquet") if not config or p.parent.name == config)
    return found or sorted(
        p for p in data.rglob("*.parquet") if p.parent.name == split and (not config or config in p.parts)
    )


def parquet_columns(path: Path) -> list[str]:
    with _whole(path) as file:
        return list(file.schema_arrow.names)


def parquet_rows(
    files: list[Path], pictures: tuple[str, ...] = (), needed: Collection[str] = ()
) -> Iterator[dict[str, Any]]:
    """Rows in order, without reading the columns in `pictures`, which become InParquet.

    Raises:
        DataError: a file is not Parquet, or lacks one of those columns or of `needed`.
    """
    for path in files:
        with _whole(path) as file:
            there = file.schema_arrow.names
            if missing := [n for n in (*pictures, *needed) if n not in there]:
                raise DataError(
                    f"{path}: no column {missing[0]!r}; there are {', '.join(there)}; is it this benchmark's data set?"
                )
            names = [n for n in there if n not in pictures]
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=names).to_pylist()
                for i, row in enumerate(rows):
                    yield row | {c: InParquet(str(path), group, i, c) for c in pictures}


def picture_counts(files: list[Path], column: str) -> Iterator[int]:
    """The number of pictures of each row: 0 or 1, or a list's length. Reads only the pictures' names if possible."""
    for path in files:
        with _whole(path) as file:
            leaves = [file.schema.column(i).path for i in range(len(file.schema))]
            names = [leaf for leaf in leaves if leaf.startswith(f"{column}.") and leaf.endswith(".path")]
            for group in range(file.num_row_groups):
                cells = file.read_row_group(group, columns=names or [column]).column(column).to_pylist()
                yield from (len(cell) if isinstance(cell, list) else int(cell is not None) for cell in cells)
