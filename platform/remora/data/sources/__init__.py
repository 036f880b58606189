"""Sources of records: each module reads one format, shard by shard, and converts it to LLaVA records."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable

from remora.data.locations import is_url, join, opened, parent
from remora.data.sources import listing
from remora.data.sources.base import Files, Raw, Shard, Source, reading
from remora.data.sources.llava import LlavaJson
from remora.errors import DataError

__all__ = ["Raw", "Shard", "Source", "check_command", "find_source", "is_url", "picture_folder"]

_PACKED = re.compile(r"\.[a-z]+(\.(?:gz|bz2|xz|zst|zip))$")
FORMATS = (
    ".json, .jsonl, .parquet, .arrow, .tar, .csv and .tsv files, patterns of them (train-*.parquet, "
    "{00000..00012}.tar), folders of Parquet or tar files, of save_to_disk, or with a metadata.jsonl or metadata.csv"
)


def find_source(location: str) -> Source:
    """The source for a location, by its file name; for a folder, by its content.

    Raises:
        DataError: the name has no known format, or a folder or pattern has no dataset.
    """
    if listing.is_pattern(location):
        return _of_files(location, listing.expand(location))
    name = location.partition("?")[0] if is_url(location) else location  # https://…/train.parquet?download=true
    if format := _format(name):
        within = None if is_url(location) else listing.names(location)
        if within is None:
            return format(location)
    else:
        within = listing.names(location)
    if within is None:
        raise DataError(f"dataset {location}: no known format has such a name; supported: {FORMATS}")
    return _of_folder(location.rstrip("/"), within)


def picture_folder(location: str) -> str:
    """The default picture folder of a dataset: that of its file, or the dataset's folder itself."""
    if listing.is_pattern(location) or (is_url(location) and _format(location)):
        return parent(location)
    return parent(location) if listing.names(location) is None else location.rstrip("/")


def check_command(dataset: str, images: str | None = None) -> str:
    """The command that lists all problems of a dataset: a catalog name, or a location and its picture folder."""
    named = images is None or images == picture_folder(dataset)
    return f"remora data check {shlex.quote(dataset)}" + ("" if named else f" --images {shlex.quote(str(images))}")


def _format(file: str) -> Callable[[str], Source] | None:
    """The format of a file by its name. Those that need pyarrow (0.1 s) are imported on first use."""
    if file.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
        raise DataError(f"dataset {file}: a compressed tar has no random access; next: gunzip it to a .tar")
    name = file.rpartition("/")[2]
    kind = name.rpartition(".")[2]
    if kind != kind.lower() and _format(file[: -len(kind)] + kind.lower()):
        raise DataError(f"dataset {file}: file suffixes must be lower case; next: rename it to end in .{kind.lower()}")
    if (packed := _PACKED.search(name)) and _format(file[: -len(packed[1])]):
        raise DataError(
            f"dataset {file}: it is compressed; next: unpack it, and give the {packed[0][: -len(packed[1])]}"
        )
    if name.endswith(".json"):
        return LlavaJson
    if name.endswith(".jsonl"):
        from remora.data.sources.captions import Metadata

        return Metadata if name == "metadata.jsonl" else LlavaJson
    if name.endswith((".csv", ".tsv")):
        from remora.data.sources.captions import Captions

        return Captions
    if name.endswith(".tar"):
        from remora.data.sources.tar import Tar

        return Tar
    if name.endswith(".parquet"):
        from remora.data.sources.parquet import Parquet

        return Parquet
    if name.endswith(".arrow"):
        from remora.data.sources.arrow import Arrow

        return Arrow
    return None


def _of_files(location: str, files: list[str]) -> Source:
    formats = {_format(file) for file in files}
    format = formats.pop()
    if format is None or formats:
        raise DataError(f"dataset {location}: it matches files of no known format, or of several; supported: {FORMATS}")
    return format(files[0]) if len(files) == 1 else Files(format, tuple(files))


def _of_folder(folder: str, within: list[str]) -> Source:
    """The source for a folder.

    Raises:
        DataError: there is no dataset in it; the message lists its content.
    """
    within = [name for name in within if not name.startswith(".")]  # macOS leaves a ._x.tar beside each x.tar
    if metadata := [name for name in ("metadata.jsonl", "metadata.csv") if name in within]:
        if len(metadata) > 1:
            raise DataError(f"dataset {folder} has a {' and a '.join(metadata)}; keep one, or give the path of one")
        return _of_files(folder, [join(folder, metadata[0])])
    if "dataset_dict.json" in within:
        splits = _about(join(folder, "dataset_dict.json")).get("splits")
        if not isinstance(splits, list) or "train" not in splits:
            raise DataError(f"dataset {folder} has the splits {splits} and no train; give the folder of one")
        folder = join(folder, "train")
        within = listing.names(folder) or []
    if "state.json" in within:
        return _of_files(folder, _saved(folder))
    if tars := [name for name in within if name.endswith((".tar", ".tar.gz", ".tgz"))]:
        return _of_files(folder, [join(folder, name) for name in tars])
    if found := listing.parquet_files(folder):
        return _of_files(folder, found)
    if any(name.lower().endswith(listing.PICTURES) for name in within):
        raise DataError(
            f"dataset {folder} has only pictures; write a {folder}/metadata.csv with the columns file_name,text"
        )
    if tables := [n for n in within if n.endswith((".json", ".jsonl", ".csv", ".tsv", ".arrow"))]:
        raise DataError(f"dataset {folder}: a folder that holds {', '.join(tables[:5])}; give the path of a file")
    raise DataError(f"dataset {folder}: no dataset is in that folder; supported: {FORMATS}")


def _about(file: str) -> dict[str, object]:
    with reading(file), opened(file) as f:
        about = json.loads(f.read())
    if not isinstance(about, dict):
        raise DataError(f"unreadable dataset file: {file}: it should be a mapping")
    return about


def _saved(folder: str) -> list[str]:
    """The files of a dataset written by `save_to_disk`, in order."""
    state = join(folder, "state.json")
    about = _about(state)
    files = about.get("_data_files")
    if not isinstance(files, list) or not files or about.get("_indices_files"):
        raise DataError(f"unreadable dataset file: {state}: it names no _data_files; save the dataset again")
    listed = [f.get("filename") if isinstance(f, dict) else None for f in files]
    if not all(isinstance(name, str) and name.endswith(".arrow") for name in listed):
        raise DataError(f"unreadable dataset file: {state}: its _data_files are {files!r}; save it again"[:500])
    return [join(folder, str(name)) for name in listed]
