"""Tables and tars, whole and hurt: read or refused in one line, by check, index and reader alike."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases import cases
from verdicts import png, verdict

TEXTS = [
    "a",
    "What?",
    "<image>\nWhat?",
    "",
    " ",
    "é",
    "a,b",
    'say "b"',
    "line\nbreak",
    "\t",
    "\0",
    "x" * 300,
    "a.png",
    "none.png",
]
COLUMNS = [
    "image",
    "images",
    "image_path",
    "file_name",
    "path",
    "question",
    "answer",
    "query",
    "response",
    "caption",
    "text",
    "conversations",
    "messages",
    "texts",
    "system",
    "video",
    "id",
    " question",
    "Image",
    "history",
    "foo",
]
PICTURES: list[Any] = [
    "a.png",
    "none.png",
    "",
    png(1),
    b"no picture",
    b"",
    {"bytes": png(2), "path": None},
    None,
    5,
    {"bytes": None, "path": "a.png"},
    [{"bytes": png(3), "path": "x"}],
    ["a.png", "a.png"],
    [],
]
SAID: list[Any] = [
    [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}],
    [{"from": "human", "value": "What?"}, {"from": "gpt", "value": ""}],
    [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "red"}],
    [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]},
        {"role": "assistant", "content": []},
    ],
    [{"user": "What?", "assistant": "red"}],
    [],
    None,
    "text",
    7,
]
NAMES = [
    "0.json",
    "0.txt",
    "0.png",
    "0.jpg",
    "0.0.png",
    "0.1.png",
    "0.10.png",
    "0.2.png",
    "0.mask.png",
    "0.v2.txt",
    "0.v2.png",
    "0.v2.json",
    "1.json",
    "1.png",
    "1.txt",
    "x/2.png",
    "x/2.txt",
    "x/2.json",
    "/3.txt",
    "../4.png",
    "../4.txt",
    "README",
    ".hidden",
    "é.png",
    "é.txt",
    "0.",
    "0..png",
    "5.PNG",
    "5.TXT",
    "6.cls",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "a.png").write_bytes(png(1))
    return folder


def run(folder: Path, count: int, make: Callable[[random.Random], Path | None]) -> None:
    for case in range(count):
        try:
            location = make(random.Random(case))
            if location is not None:
                verdict(location, folder)
        except BaseException:
            print(f"case {case}")
            raise


def spoilt(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut or doubled, or none."""
    for _ in range(rng.choice([0, 0, 1, 3])):
        at, gone = rng.randrange(len(content) + 1), rng.choice([0, 1, 8, 512, len(content)])
        content = content[:at] + rng.choice([b"", b"\0", b"\xff", b'"', b"\n", rng.randbytes(4)]) + content[at + gone :]
    return content


def test_text(folder):
    def make(rng: random.Random) -> Path:
        out = io.StringIO()
        names = rng.choices(COLUMNS, k=rng.randrange(1, 5)) if rng.random() < 0.3 else ["image", "question", "answer"]
        table = csv.writer(out, rng.choice(["excel", "excel-tab", "unix"]))
        table.writerow(names)
        for _ in range(rng.randrange(4)):
            table.writerow(rng.choices(TEXTS, k=len(names) + rng.choice([0, 0, 0, 1, -1])))
        file = folder / rng.choice(["a.csv", "a.tsv", "metadata.csv"])
        file.write_bytes(spoilt(out.getvalue().encode(rng.choice(["utf-8", "utf-8", "utf-16", "latin-1"])), rng))
        return file

    run(folder, cases(3_000) // 10, make)


def test_parquet_and_arrow(folder):
    def make(rng: random.Random) -> Path | None:
        names = rng.sample(COLUMNS, k=rng.randrange(1, 6))
        if rng.random() < 0.7:
            names += rng.choice(
                [["messages", "images"], ["conversations", "image"], ["texts", "images"], ["image", "caption"]]
            )
        columns = {}
        for name in dict.fromkeys(names):
            pool = SAID if name in ("conversations", "messages", "texts") else PICTURES if "ima" in name else TEXTS
            values = rng.choices(pool, k=2) if rng.random() < 0.5 else [rng.choice(pool)] * 2
            columns[name] = values
        try:
            table = pa.table(columns)
        except (pa.ArrowException, TypeError, ValueError):  # values of no one type
            return None
        if rng.random() < 0.5:
            file = folder / "a.parquet"
            pq.write_table(table, file, row_group_size=1)
            file.write_bytes(spoilt(file.read_bytes(), rng))
            return file
        home = folder / "saved"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        with pa.ipc.new_stream(home / "data.arrow", table.schema) as stream:
            stream.write_table(table)
        (home / "data.arrow").write_bytes(spoilt((home / "data.arrow").read_bytes(), rng))
        state = json.dumps(
            {"_data_files": [{"filename": rng.choice(["data.arrow", "none.arrow", "a.txt", 5])}]}
        ).encode()
        (home / "state.json").write_bytes(spoilt(state, rng) if rng.random() < 0.3 else state)
        return home

    run(folder, cases(3_000) // 10, make)


def test_tars(folder):
    said = [
        {"conversations": SAID[0], "image": "0.png"},
        {"conversations": SAID[0]},
        {"messages": SAID[2], "images": ["0.1.png", "0.0.png"]},
        {"caption": "a", "url": "u"},
        {"conversations": SAID[0], "image": "none.png"},
        [1],
    ]

    def member(name: str, rng: random.Random) -> tuple[tarfile.TarInfo, bytes]:
        made = tarfile.TarInfo(name)
        if rng.random() < 0.03:
            made.type, made.linkname = (
                rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]),
                "0.png",
            )
            return made, b""
        content = rng.choice([b"a caption", b"", b"\xff"]) if name.lower().endswith("txt") else png(rng.randrange(200))
        if name.endswith("json"):
            content = (
                spoilt(json.dumps(rng.choice(said)).encode(), rng)
                if rng.random() < 0.2
                else json.dumps(rng.choice(said)).encode()
            )
        made.size = len(content)
        return made, content

    def make(rng: random.Random) -> Path:
        names = rng.sample(NAMES, k=rng.randrange(9))
        names = sorted(names) if rng.random() < 0.8 else names
        names += rng.sample(names, k=min(len(names), rng.choice([0, 0, 0, 1])))
        with tarfile.open(folder / "a.tar", "w", format=rng.choice([tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])) as out:
            for name in names:
                made, content = member(name, rng)
                out.addfile(made, io.BytesIO(content))
        if rng.random() < 0.3:
            (folder / "a.tar").write_bytes(spoilt((folder / "a.tar").read_bytes(), rng))
        return folder / "a.tar"

    run(folder, cases(3_000) // 10, make)
