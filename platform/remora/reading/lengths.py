"""Lengths of all conversations of a dataset, measured once per tokenizer and template and stored beside its index.

With them every rank can assign a step's samples to ranks and only tokenises its own. The files are beside the index, in
`<name>-<place>/lengths/`, for each index, tokenizer and template:

    <index>-<prompter>/lengths.bin   uint32 [records, 3]: tokens without those of pictures, pictures, supervised tokens
    <index>-<prompter>.lock          held by the process that measures; the others wait

The number of tokens per picture is not part of it, so all encoders and connectors share the table.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from remora.data.index import Dataset
from remora.data.index_builder import over_processes
from remora.errors import DataError, RemoraError, StoreError, TornArtifact
from remora.files import MANIFEST, digest, disk_errors, exclusive, publishing, verify
from remora.reading.prompt import Prompter, Size
from remora.versions import LENGTHS

log = logging.getLogger(__name__)
AT_ONCE = 4096
"""Conversations per task of a process: seconds of work, compared to the 4 s that a process takes to start."""
FILE = "lengths.bin"


class Lengths:
    """The size of each sample of a dataset; memory-mapped, like the dataset."""

    def __init__(self, folder: Path, dataset: Dataset, image_tokens: int) -> None:
        self._folder, self._dataset, self._image_tokens = folder, dataset, image_tokens
        self._table = np.memmap(folder / FILE, np.uint32, mode="r").reshape(-1, 3)

    def __reduce__(self) -> tuple[object, ...]:
        return Lengths, (self._folder, self._dataset, self._image_tokens)  # the other process maps the file itself

    def __getitem__(self, i: int) -> Size:
        """The size of a sample by its number; all zeros if it could not be measured."""
        text, images, supervised = self._table[self._dataset.number(i)].tolist()
        return Size(text + images * self._image_tokens, images, supervised)

    def wrong(self, i: int, tokens: int) -> DataError:
        """The error of a sample whose number of tokens differs from the table, which the next run measures again."""
        with suppress(OSError):
            (self._folder / MANIFEST).unlink(missing_ok=True)
        where = self._dataset.where(self._dataset.number(i))
        return DataError(
            f"wrong lengths: {self._folder}: {where} has {tokens} tokens, {self[i].tokens} were measured; "
            "run the same command again, which measures them again"
        )


def open_lengths(dataset: Dataset, prompter: Prompter) -> Lengths | None:
    """The lengths of a dataset's samples, measured first if necessary; None if the table cannot be written."""
    home = dataset.folder.parent / "lengths"
    folder = home / f"{dataset.folder.name}-{digest([LENGTHS, prompter.identity])[:16]}"
    bytes_ = 3 * np.uint32().nbytes * dataset.records
    try:
        if not _sound(folder, bytes_):
            with exclusive(home / f"{folder.name}.lock", enough=partial(_sound, folder, bytes_)) as ours:
                if ours and not _sound(folder, bytes_):
                    log.info("measuring the %s conversations of %s", f"{dataset.records:,}", dataset.folder.parent.name)
                    _write(Dataset(dataset.folder), prompter, folder)
    except StoreError as e:
        log.warning("%s; without a table of lengths every rank tokenises the whole step", e)
        return None
    return Lengths(folder, dataset, prompter.image_tokens)


def _sound(folder: Path, bytes_: int) -> bool:
    try:
        verify(folder)
        return (folder / FILE).stat().st_size == bytes_
    except (OSError, TornArtifact):
        return False


def _write(dataset: Dataset, prompter: Prompter, folder: Path) -> None:
    parts = (range(at, min(at + AT_ONCE, dataset.records)) for at in range(0, dataset.records, AT_ONCE))
    with disk_errors(folder.parent), publishing(folder) as tmp, (tmp / FILE).open("wb") as f:
        for part in over_processes(partial(_measured, dataset, prompter), parts):
            f.write(part)


def _measured(dataset: Dataset, prompter: Prompter, numbers: range) -> bytes:
    """Rows of the table. An unreadable record gets size 0: only a stage that reads it needs to stop."""
    table = np.zeros((len(numbers), 3), np.uint32)
    for row, number in zip(table, numbers, strict=True):
        with suppress(RemoraError):
            sample = dataset[number]
            tokens, images, supervised = prompter.encode(sample.turns).size
            if images == len(sample.images):
                row[:] = tokens - images * prompter.image_tokens, images, supervised
    return table.tobytes()
