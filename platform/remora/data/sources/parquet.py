"""Parquet: a shard is one or more row groups. Embedded pictures are returned as bytes.

A row group is the smallest range that can be read independently (its rows are compressed together), so it is never
split. Its rows are streamed, so memory depends on the page size, not on the group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow
import pyarrow.parquet

from remora.data.locations import opened
from remora.data.sources.base import Raw, Shard, reading
from remora.data.sources.foreign import HEAD, refuse_foreign
from remora.data.sources.forms import as_llava
from remora.data.sources.rows import columns

SHARD = 32 << 20
"""Approximate bytes of row groups per shard."""
ROWS = 64
"""Rows in memory as Python objects at a time."""


@dataclass(frozen=True)
class Parquet:
    """A `.parquet` file."""

    file: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def shards(self) -> Iterator[Shard]:
        with reading(self.file, pyarrow.ArrowException), opened(self.file) as f:
            refuse_foreign(f.read(HEAD), self.file, "Parquet", "a Parquet file")
            f.seek(0)
            about = pyarrow.parquet.ParquetFile(f).metadata
            # A column chunk of unknown size would give a shard of size 0.
            groups = [about.row_group(i) for i in range(about.num_row_groups)]
            sizes = [sum(g.column(c).total_compressed_size for c in range(g.num_columns)) for g in groups]
            rows = [g.num_rows for g in groups]
        first = start = 0
        for group in range(len(rows)):
            if group + 1 == len(rows) or sum(sizes[start : group + 1]) >= SHARD:
                held = sum(rows[start : group + 1])
                if held:
                    yield Shard(self.file, first, start, group + 1, sum(sizes[start : group + 1]))
                first, start = first + held, group + 1

    def read(self, shard: Shard) -> Iterator[Raw]:
        with reading(self.file, pyarrow.ArrowException), opened(self.file) as f:
            table = pyarrow.parquet.ParquetFile(f, buffer_size=1 << 20, pre_buffer=False)
            chosen, left = columns(table.schema_arrow.names, self.file)
            groups = list(range(shard.start, shard.end))
            for batch in table.iter_batches(ROWS, row_groups=groups, columns=chosen, use_threads=False):
                yield from (as_llava(row, left) for row in batch.to_pylist())
