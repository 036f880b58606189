"""A dataset of any format, damaged in any way, is read or reported in one line: never a crash, never silently wrong."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hurt import png, write_all, write_tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remora.data.check import check_dataset
from remora.data.index_builder import open_dataset
from remora.data.sources import find_source
from remora.errors import DataError

HURT = [
    "a.json",
    "a.jsonl",
    "names.parquet",
    "held.parquet",
    "fine.parquet",
    "saved/data-00000-of-00002.arrow",
    "saved/state.json",
    "a.tar",
    "captions.tar",
    "a.csv",
    "a.tsv",
    "imagefolder/metadata.jsonl",
]
FILES = settings(max_examples=80, suppress_health_check=list(HealthCheck))
ROWS = settings(max_examples=200, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A dataset of every format, untouched."""
    folder = tmp_path_factory.mktemp("whole")
    write_all(folder)
    return folder


def read(location: Path, folder: Path, index: bool = False) -> Counter | None:
    """Problems by kind, or None for a dataset that is refused. The message is one line with the file's name."""
    try:
        report = check_dataset(str(location), str(folder))
    except DataError as e:
        assert str(location) in str(e) and "\n" not in str(e), e
        report = None
    else:
        assert report.records > 0 and all("\n" not in e for kind in report.examples.values() for e in kind)
    if index:
        try:
            place, root = str(location), folder / "index"
            dataset = open_dataset(find_source(place), place, str(folder), root, spread=map)
        except DataError as e:
            assert report is None and str(location) in str(e) and "\n" not in str(e), e
        else:
            assert report is not None and dataset.records == report.records
            flawed = {flaw.record for flaw in dataset.flaws() if flaw.kind not in ("oversized-image",)}
            for i in range(len(dataset)):
                if i not in flawed:
                    dataset[i]
        shutil.rmtree(root, ignore_errors=True)
    return None if report is None else report.counts


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", HURT)
@FILES
@given(data=st.data())
def test_bytes_that_are_changed_cut_or_put_in(whole, tmp_path_factory, name, data):
    content = bytearray((whole / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)) | st.integers(max(0, len(content) - 200), len(content)))
        match data.draw(st.sampled_from(["cut", "set", "insert", "remove"])):
            case "cut":
                del content[at:]
            case "set":
                new = data.draw(st.binary(min_size=1, max_size=8))
                content[at : at + len(new)] = new
            case "insert":
                content[at:at] = data.draw(st.binary(max_size=40))
            case "remove":
                del content[at : at + data.draw(st.integers(1, 600))]
    folder = tmp_path_factory.getbasetemp() / "hurt"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / name).parent.mkdir(parents=True)
    if name.startswith("saved/"):
        shutil.copytree(whole / "saved", folder / "saved", dirs_exist_ok=True)
    (folder / name).write_bytes(bytes(content))
    location = (folder / name).parent if "/" in name else folder / name
    read(location, folder, index=data.draw(st.integers(0, 7)) == 0)


@FILES
@given(st.binary(max_size=300), st.sampled_from([b"", b"PAR1", b"\xff\xff\xff\xff", b"image,text\n", b"[", b"{"]))
def test_bytes_that_mean_nothing(tmp_path_factory, content, start):
    folder = tmp_path_factory.getbasetemp() / "noise"
    folder.mkdir(exist_ok=True)
    for name in (
        "a.parquet",
        "a.arrow",
        "a.tar",
        "a.csv",
        "a.tsv",
        "metadata.jsonl",
        "metadata.csv",
        "a.json",
        "a.jsonl",
    ):
        (folder / name).write_bytes(start + content + start)
        read(folder / name, folder)


SCALAR = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=4) | st.binary(max_size=4)
PICTURE = st.just(png(1)) | st.fixed_dictionaries({"bytes": st.none() | st.just(png(1)) | SCALAR, "path": SCALAR})
TURN = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "x"]) | SCALAR, "value": SCALAR | st.just("<image>")}
)
ROUND = st.fixed_dictionaries({"user": SCALAR | st.just("a"), "assistant": SCALAR | st.just("b")})
CELL = SCALAR | PICTURE | st.lists(PICTURE | SCALAR, max_size=2) | st.lists(TURN | ROUND | SCALAR, max_size=3)
COLUMNS = ["conversations", "image", "images", "texts", "text", "caption", "question", "answer", "id"]


@pytest.mark.slow
@ROWS
@given(st.dictionaries(st.sampled_from(COLUMNS), st.lists(CELL, min_size=3, max_size=3), min_size=1))
def test_columns_of_wrong_types(tmp_path_factory, columns):
    folder = tmp_path_factory.getbasetemp() / "columns"
    folder.mkdir(exist_ok=True)
    made = {}
    for name, cells in columns.items():
        for fit in (cells, [cells[0]] * 3, [str(cell) for cell in cells]):  # cells of several types are no column
            try:
                made[name] = pa.array(fit)
                break
            except (pa.ArrowException, OverflowError):
                continue
    table = pa.table(made)
    pq.write_table(table, folder / "a.parquet")
    with pa.ipc.new_stream(folder / "a.arrow", table.schema) as stream:
        stream.write_table(table)
    found = [read(folder / name, folder) for name in ("a.parquet", "a.arrow")]
    assert found[0] == found[1]


@pytest.mark.slow
@ROWS
@given(
    st.text(max_size=60)
    | st.lists(st.lists(st.sampled_from(["a", "", '"', '""', "\n", "\r", "\0", "é", "x.png"]), max_size=4)).map(
        lambda rows: "\n".join(",".join(cells) for cells in rows)
    )
)
def test_odd_tables(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / "tables"
    folder.mkdir(exist_ok=True)
    for name, header in (("a.csv", "image,text\n"), ("a.tsv", "image\tquestion\tanswer\n")):
        (folder / name).write_bytes((header + text).encode(errors="surrogatepass"))
        read(folder / name, folder)


JSON = SCALAR.filter(lambda v: not isinstance(v, bytes))
MEMBER = st.tuples(
    st.sampled_from(["0", "0", "1", "1", "2", "d/0", "", ".x"]),
    st.sampled_from(["", ".json", ".txt", ".png", ".jpg", ".0.png", ".cls", ".json.png"]),
    st.binary(max_size=6)
    | st.just(png(1))
    | st.fixed_dictionaries(
        {}, optional={"conversations": st.lists(TURN, max_size=3) | JSON, "caption": JSON, "image": JSON}
    ).map(lambda r: json.dumps(r, default=repr).encode()),
)


@pytest.mark.slow
@ROWS
@given(st.lists(MEMBER, max_size=7))
def test_odd_tars(tmp_path_factory, members):
    folder = tmp_path_factory.getbasetemp() / "tars"
    folder.mkdir(exist_ok=True)
    write_tar(folder / "a.tar", [(key + kind or "none", content) for key, kind, content in members])
    read(folder / "a.tar", folder)
