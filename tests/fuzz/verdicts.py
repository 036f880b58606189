"""What check and an index report of a dataset: the same, in one line, and what neither refuses can be read."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from PIL import Image

from remora.data.check import check_dataset
from remora.data.index_builder import open_dataset
from remora.data.pixels import NOTED
from remora.data.sources import find_source
from remora.errors import DataError

LONGEST = 1_500
"""Characters of a message."""


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 3), (shade % 256, 9, 9)).save(out, "png")
    return out.getvalue()


def in_one_line(message: str) -> None:
    assert "\n" not in message and "\r" not in message and len(message) < LONGEST, message
    message.encode()  # a terminal can print it


def verdict(location: Path, images: Path) -> str:
    """Check's and the index's verdict on a dataset.

    Raises:
        AssertionError: they differ; a message is of several lines or too long; a sample that is kept cannot be read.
        Exception: anything that is no DataError.
    """
    try:
        report = check_dataset(str(location), str(images))
    except DataError as e:
        in_one_line(str(e))
        checked = str(e)
    else:
        assert report.records and report.refused <= report.fatal
        for shown in report.examples.values():
            for example in shown:
                in_one_line(example)
        for name in report.unread:
            assert isinstance(name, str)
        counts = {kind: n for kind, n in report.counts.items() if kind not in report.tolerated}
        checked = f"{report.records} {sorted(counts.items())}"
    index = images / "index"
    shutil.rmtree(index, ignore_errors=True)
    try:
        source = find_source(str(location))
        dataset = open_dataset(source, str(location), str(images), index, spread=map)
    except DataError as e:
        in_one_line(str(e))
        indexed = str(e)
    else:
        counts = {kind: n for kind, n in dataset.counts.items() if kind not in NOTED}
        indexed = f"{dataset.records} {sorted(counts.items())}"
        broken = {flaw.record for flaw in dataset.flaws() if flaw.kind not in NOTED}
        for i in range(dataset.records):
            if i not in broken:
                sample = dataset[i]
                assert sample.turns[-1].role == "assistant"
                assert sum(turn.images for turn in sample.turns) == len(sample.images)
                for picture in sample.images:
                    picture.open()
    assert checked == indexed, (checked, indexed)
    return checked
