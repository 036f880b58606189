"""Convert a dataset of any source to a target format (targets.py), atomically and record by record."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from remora.data.conversation import image_field
from remora.data.index_builder import OnProgress
from remora.data.index_state import size_of
from remora.data.locations import is_url, join
from remora.data.outputs import writes
from remora.data.pictures import Picture
from remora.data.sources import check_command, find_source
from remora.data.targets import Item, find_target
from remora.errors import BrokenRecord, DataError


@dataclass(frozen=True)
class Converted:
    """What was written, with notes for the user."""

    records: int
    pictures: int
    notes: tuple[str, ...]


def convert_dataset(
    location: str,
    images: str,
    target: str,
    shard_size: int = 256 << 20,
    progress: OnProgress = lambda done, total: None,
) -> Converted:
    """Write the dataset at `location` to `target`, whose suffix decides the format. Only one record is in memory.

    `images` is the folder of the source's picture files, if it has any; `shard_size` is in bytes per tar;
    `progress` is called with (bytes of records read, total bytes).

    Raises:
        DataError: the dataset cannot be read; a record has a problem (the first is named) or does not fit the
            target; or the target exists. A partial target is deleted.
        StoreError: the disk is full or read-only.
    """
    records = pictures = 0
    with _workshop(target) as folder, find_target(target, folder, images, shard_size) as writer:
        for item in items(location, images, progress):
            writer.add(item)
            records += 1
            pictures += len(item.pictures)
        if not records:
            raise DataError(f"{location}: no record in it")
        notes = tuple(writer.notes())
    return Converted(records, pictures, notes)


def items(
    location: str,
    images: str,
    progress: OnProgress = lambda done, total: None,
    only: Container[int] | None = None,
) -> Iterator[Item]:
    """The records of a dataset in order; if `only` is given, those with these numbers.

    Raises:
        DataError: the dataset cannot be read, or one of those records has a problem.
    """
    source = find_source(location)
    total, done = sum(size_of(file) for file in source.files), 0
    row = -1  # counted over all files
    for shard in source.shards():
        for number, raw in enumerate(source.read(shard), shard.first):
            row += 1
            if only is not None and row not in only:
                continue
            where = f"{shard.file}: record {number}"
            for kind, problem in raw.flaws():
                raise DataError(f"{where}: {problem} ({kind}); find all such: {check_command(location, images)}")
            if raw.pictures is not None:
                yield Item(where, raw.record, raw.pictures, embedded=True)
                continue
            shown = tuple(Picture(join(images, name)) for name in image_field(raw.record))
            for picture in shown:
                if not is_url(picture.location) and not os.path.isfile(picture.location):  # noqa: PTH113
                    try:
                        picture.read()
                    except BrokenRecord as e:
                        check = check_command(location, images)
                        raise DataError(f"{where}: {e.problem} ({e.kind}); find all such: {check}") from None
            yield Item(where, raw.record, shown, embedded=False)
        done += shard.bytes
        progress(done, total)


@contextmanager
def _workshop(target: str) -> Iterator[Path]:
    """A temporary folder beside the target. When the block ends, its content is moved next to it.

    Raises:
        DataError: something of that name exists.
    """
    if is_url(target):
        raise DataError(f"target {target}: a dataset can only be written to a local path; write it there and copy it")
    parent = Path(target).expanduser().absolute().parent
    folder = parent / f".{Path(target).name[:60]}.{uuid.uuid4().hex[:8]}"
    with writes(target, "target"):
        parent.mkdir(parents=True, exist_ok=True)
        _refuse(Path(target).expanduser().absolute())
        folder.mkdir()
        try:
            yield folder
            made = sorted(folder.iterdir(), key=lambda path: path.is_file())  # pictures before the list that names them
            for path in made:
                _refuse(parent / path.name)
            for path in made:
                if path.is_file():
                    with path.open("rb") as f:
                        os.fsync(f.fileno())
                path.rename(parent / path.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _refuse(path: Path) -> None:
    if os.path.lexists(path):
        raise DataError(f"target {path} exists; remove it or choose another name")
