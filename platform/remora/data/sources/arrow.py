"""Hugging Face `datasets` written by `save_to_disk`: Arrow streams, read without copying batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow
import pyarrow.ipc

from remora.data.locations import is_url, opened
from remora.data.sources.base import Raw, Shard, reading
from remora.data.sources.foreign import HEAD, refuse_foreign
from remora.data.sources.forms import as_llava
from remora.data.sources.rows import columns

SHARD = 32 << 20
"""Bytes of batches per shard."""
ROWS = 64
"""Rows in memory as Python objects at a time."""


@dataclass(frozen=True)
class Arrow:
    """An `.arrow` file: one stream of record batches."""

    file: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def shards(self) -> Iterator[Shard]:
        with reading(self.file), opened(self.file) as f:
            refuse_foreign(f.read(HEAD), self.file, "an Arrow stream", "an Arrow stream")
        first = rows = start = size = number = 0
        for number, batch in enumerate(self._batches(), 1):
            rows, size = rows + batch.num_rows, size + batch.get_total_buffer_size()
            if size >= SHARD:
                yield Shard(self.file, first, start, number, size)
                first, rows, start, size = first + rows, 0, number, 0
        if rows:
            yield Shard(self.file, first, start, number, size)

    def read(self, shard: Shard) -> Iterator[Raw]:
        with reading(self.file, pyarrow.ArrowException):
            for number, batch in enumerate(self._batches()):
                if number >= shard.end:
                    return
                if number < shard.start:  # memory-mapped, so skipping it reads only its header
                    continue
                names, left = columns(batch.schema.names, self.file)
                chosen = batch.select(names)
                chosen.validate(full=True)
                for at in range(0, batch.num_rows, ROWS):
                    yield from (as_llava(row, left) for row in chosen.slice(at, ROWS).to_pylist())

    def _batches(self) -> Iterator[pyarrow.RecordBatch]:
        with reading(self.file, pyarrow.ArrowException), _mapped(self.file) as f, pyarrow.ipc.open_stream(f) as stream:
            yield from stream


@contextmanager
def _mapped(file: str) -> Iterator[object]:
    if is_url(file):
        with opened(file) as f:
            yield f
    else:
        with pyarrow.memory_map(file) as f:
            yield f
