"""`remora data convert SOURCE TARGET`: a dataset in another format."""

from __future__ import annotations

from rich.console import Console

from remora.commands.data_options import DataConvertOptions
from remora.data.convert import convert_dataset
from remora.data.index_builder import OnProgress
from remora.data.locations import absolute
from remora.data.sources import picture_folder
from remora.errors import DataError, several


def convert(options: DataConvertOptions, console: Console, progress: OnProgress) -> None:
    """Write a dataset in the format of its new name.

    Raises:
        DataError: a record has a problem or does not fit the new format, or the target exists.
    """
    if options.shard_size < 1:
        raise DataError(f"--shard-size {options.shard_size}: a tar shard has at least 1 MB")
    source = absolute(options.target)
    images = absolute(options.images) if options.images else picture_folder(source)
    done = convert_dataset(source, images, options.out, options.shard_size << 20, progress)
    console.print(
        f"{options.out}: {several(done.records, 'record')}, {several(done.pictures, 'picture')}", highlight=False
    )
    for line in done.notes:
        console.print(f"  {line}", markup=False, highlight=False)
