"""Indexes of datasets at a URL, shared by the nodes of a run folder at a URL: the first one reads terabytes, the others
bring what it made of them. A dataset on a disk is indexed by each node, since each has files of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

from remora.errors import StoreError
from remora.files import copy, scratch
from remora.sharing import around


def bring_index(home: Path, files: list[list[str | int]], beside: tuple[str, str]) -> None:
    """Bring the newest index of a dataset, if another node made one of the same files.

    Args:
        home: The folder of the dataset's indexes.
        files: The dataset's files, each with its size and stamp, by which a change is seen.
        beside: The names of the index's state and of the table of pictures.
    """
    shared = around(home)
    if shared is None or (found := shared.newest(shared.key(home))) is None or found.about.get("files") != files:
        return
    with shared.fetched(home, found) as tmp:
        name = str(json.loads((tmp / beside[0]).read_text())["index"])
        if Path(name).name != name or not shared.bring(home / name):
            raise StoreError(f"{shared.url}/{shared.key(home)}: its index {name} is missing; delete it there")
        for file in reversed(beside):
            (tmp / file).replace(home / file)


def send_index(folder: Path, files: list[list[str | int]], beside: tuple[str, str]) -> None:
    """Publish an index, in the folder of the dataset's indexes, for other nodes; see `bring_index`."""
    home = folder.parent
    if (shared := around(home)) is None:
        return
    shared.send_missing(folder)
    with scratch(home) as tmp:
        for file in beside:
            copy(home / file, tmp / file)
        number = max(shared.numbers(shared.key(home)), default=0) + 1
        shared.send(home, number, {"files": files}, of=tmp)
