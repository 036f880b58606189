"""Access to the source dataset: samples to embed, and records to write. All of condense's use of data/ is here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL.Image import Image

from remora.data.conversation import Sample
from remora.data.convert import items
from remora.data.index import Dataset
from remora.data.mixture import locate
from remora.data.targets import Item
from remora.errors import BrokenRecord, DataError
from remora.spec import MixtureEntry


def row_of(dataset: Dataset, row: int) -> Sample | BrokenRecord:
    """The sample of a row (its record's number), or why the record cannot be read."""
    try:
        return dataset[row]
    except BrokenRecord as e:
        return e


def kept_items(entry: MixtureEntry, data: Path, rows: np.ndarray) -> Iterator[Item]:
    """The records of ascending `rows`, as they are in the dataset."""
    location, images, _ = locate(entry, data)
    yield from items(location, images, only=frozenset(rows.tolist()))


def picture(sample: Sample) -> Image:
    """The sample's first picture as RGB.

    Raises:
        DataError: it is missing or cannot be decoded.
        LookupError: the sample has none.
    """
    if not sample.images:
        raise LookupError(f"sample {sample.id!r} has no picture")
    return sample.images[0].open()


def words(sample: Sample | BrokenRecord) -> str:
    """The sample's text about its picture: its answers, joined. Questions are instructions, so they are left out."""
    if isinstance(sample, BrokenRecord):
        return ""
    return " ".join(turn.text for turn in sample.turns if turn.role == "assistant")


def embedding_files(folder: str) -> list[Path]:
    """The .npy files of a folder in the order of their names, 9 before 10.

    Raises:
        DataError: there are none.
    """
    found = sorted(Path(folder).expanduser().absolute().glob("*.npy"), key=_by_number)
    if not found:
        raise DataError(f"no .npy file in {folder}; embeddings are files of shape [rows, width]")
    return found


def files_digest(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """An identifier of given embeddings: names, sizes and mtimes, because they may be terabytes."""
    return [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def _by_number(file: Path) -> list[tuple[int, str]]:
    return [(int(t), "") if t.isdigit() else (-1, t) for t in re.split(r"([0-9]+)", file.name)]
