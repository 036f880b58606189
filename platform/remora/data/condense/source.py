"""The dataset that is condensed: its samples to embed, and its records to write down again.

All that this room asks of the reading side is here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL.Image import Image

from remora.data.conversation import Sample, read_records
from remora.data.images import open_image
from remora.data.mixture import locate, read_mixture
from remora.errors import DataError
from remora.files import sha256_file
from remora.spec import MixtureEntry


@dataclass(frozen=True)
class Source:
    """A dataset: its file, the folder that its image paths are relative to, its samples in the order of its records."""

    path: Path
    images: Path
    samples: Sequence[Sample]

    @cached_property
    def digest(self) -> str:
        """Of all that an embedding follows from: the file's bytes, and each picture's size and time of change.

        Pictures are not read, and a missing one is no error here.
        """
        seen = hashlib.sha256(sha256_file(self.path).encode())
        for file in (s.images[0] for s in self.samples if s.images):
            try:
                stat = file.stat()
                seen.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
            except OSError:
                seen.update(f"{file} missing\n".encode())
        return seen.hexdigest()


def read_source(entry: MixtureEntry, data: Path) -> Source:
    """Open a dataset; `data` holds the catalog's.

    Raises:
        DataError: the file is missing, or a record is not as it should be.
    """
    path, images, _ = locate(entry, data)
    return Source(path, images, read_mixture([entry], data)[0])


def records_of(entry: MixtureEntry, data: Path) -> list[Any]:
    """The dataset's records as they were written, in order."""
    path, _, hint = locate(entry, data)
    return read_records(path, hint)


def picture(sample: Sample) -> Image:
    """The sample's first picture as RGB.

    Raises:
        DataError: it is missing or cannot be decoded.
        LookupError: the sample has none.
    """
    if not sample.images:
        raise LookupError(f"sample {sample.id!r} has no picture")
    return open_image(sample.images[0])


def words(sample: Sample) -> str:
    """What the sample says about its picture: its answers, joined. Questions are instructions."""
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
    """What identifies given embeddings: names, sizes and times of change. They may be terabytes."""
    return [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def _by_number(file: Path) -> list[tuple[int, str]]:
    return [(int(t), "") if t.isdigit() else (-1, t) for t in re.split(r"([0-9]+)", file.name)]
