"""Small intact datasets of every format, for tests to read and then damage."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 3), (shade % 256, 9, 9)).save(out, "png")
    return out.getvalue()


def llava(i: int) -> dict:
    said = [{"from": "human", "value": f"<image>\nWhat is {i}?"}, {"from": "gpt", "value": f"thing {i}"}]
    return {"id": f"s{i}", "image": f"{i}.png", "conversations": said}


def embedded(i: int) -> dict:
    return {"bytes": png(i), "path": f"{i}.png"}


def write_tar(file: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_saved(folder: Path, rows: list[dict], files: int = 2) -> None:
    """What `save_to_disk` leaves."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    for k, name in enumerate(names):
        table = pa.Table.from_pylist(rows[k::files])
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            for batch in table.to_batches(max_chunksize=2):
                stream.write_batch(batch)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in names]}))
    (folder / "dataset_info.json").write_text("{}")


def write_all(folder: Path, count: int = 4) -> dict[str, Path]:
    """A dataset of `count` records a format below `folder`, their pictures in it; name -> location."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i}.png").write_bytes(png(i))
    records = [llava(i) for i in range(count)]
    (folder / "a.json").write_text(json.dumps(records))
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    pq.write_table(pa.Table.from_pylist(records), folder / "names.parquet", row_group_size=2)
    held = [{**r, "image": embedded(i)} for i, r in enumerate(records)]
    pq.write_table(pa.Table.from_pylist(held), folder / "held.parquet", row_group_size=2)
    fine = [
        {"images": [embedded(i)], "texts": [{"user": f"What is {i}?", "assistant": f"thing {i}"}]} for i in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(fine), folder / "fine.parquet", row_group_size=2)
    write_saved(folder / "saved", held)
    pairs = [(f"{i}.json", json.dumps(r).encode()) for i, r in enumerate(records)]
    shown = [(f"{i}.png", png(i)) for i in range(count)]
    write_tar(folder / "a.tar", [member for both in zip(pairs, shown, strict=True) for member in both])
    words = [(f"{i}.txt", f"thing {i}".encode()) for i in range(count)]
    write_tar(folder / "captions.tar", [member for both in zip(shown, words, strict=True) for member in both])
    for name, dialect in (("a.csv", "excel"), ("a.tsv", "excel-tab")):
        with (folder / name).open("w", newline="") as f:
            table = csv.writer(f, dialect)
            table.writerows(
                [["image", "question", "answer"], *([f"{i}.png", f"What\nis {i}?", f"thing {i}"] for i in range(count))]
            )
    (folder / "imagefolder").mkdir()
    for i in range(count):
        (folder / "imagefolder" / f"{i}.png").write_bytes(png(i))
    lines = [{"file_name": f"{i}.png", "text": f"thing {i}"} for i in range(count)]
    (folder / "imagefolder" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = ("a.json", "a.jsonl", "names.parquet", "held.parquet", "fine.parquet", "saved", "a.tar", "captions.tar")
    return {name: folder / name for name in (*files, "a.csv", "a.tsv", "imagefolder")}
