"""Asking: what cannot be asked costs no other question, and what was answered is not asked again."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from remora.data.pictures import Picture
from remora.errors import BrokenRecord, DataError
from remora.evaluation.ask import Ask, ask
from remora.evaluation.asking import Embedded, InParquet, Question, parquet_files, parquet_rows
from remora.evaluation.sheet import ASKED, Sheet
from remora.inference import Answer


class Echo:
    """Answers with its question; one that is `long` is too long."""

    name = "echo"

    def __init__(self):
        self.limits, self.pictures = [], []

    def room(self, conversation):
        if conversation[0].text == "wrong":
            raise DataError("the prompt has 9 tokens")
        return {"long": 0, "longish": 150, "nearly": 5}.get(conversation[0].text, 1000)

    def answer(self, conversations, *, max_new_tokens):
        self.limits.append(max_new_tokens)
        self.pictures += [turn.images for (turn,) in conversations]
        return [Answer(turn.text.upper(), 1, 2, "stop") for (turn,) in conversations]


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    return Picture(str(tmp_path / "a.png"))


def asks(*questions: Question) -> list[Ask]:
    return [Ask(i, "pictures", q) for i, q in enumerate(questions)]


def test_lines_are_llavas_and_keep_their_places(picture):
    echo = Echo()
    lines = ask(echo, asks(
        Question("a", "one", (picture,), 8, "g"),
        Question("b", "two", (), 16, "g", prompt="<image>\ntwo", extra={"round_id": 1}),
        Question("c", "three", (picture,), 8, "g"),
    ))  # fmt: skip
    assert [(r["question_id"], r["prompt"], r["text"]) for r in lines] == [
        ("a", "one", "ONE"), ("b", "<image>\ntwo", "TWO"), ("c", "three", "THREE"),
    ]  # fmt: skip
    assert lines[1]["round_id"] == 1 and {"answer_id", "model_id", "metadata"} <= lines[0].keys()
    assert sorted(echo.limits) == [8, 16]
    assert echo.pictures[0][0] is echo.pictures[1][0]  # opened once, so encoded once
    assert len({r["answer_id"] for r in lines}) == 3


def test_a_question_that_cannot_be_asked_is_named_and_costs_no_other(picture, tmp_path):
    (tmp_path / "junk.png").write_bytes(b"junk")
    lines = ask(Echo(), asks(
        Question(0, "fine", (picture,), 8, ""),
        Question(1, "missing", (Picture(str(tmp_path / "none.png")),), 8, ""),
        Question(2, "junk", (Picture(str(tmp_path / "junk.png")),), 8, ""),
        Question(3, "wrong", (picture,), 8, ""),
        Question(4, "long", (picture,), 8, ""),
    ))  # fmt: skip
    assert [r.get("text") for r in lines] == ["FINE", None, None, None, None]
    reasons = ["missing image", "unreadable", "9 tokens", "no room for an answer"]
    assert all(reason in line["broken"] for reason, line in zip(reasons, lines[1:], strict=True))


def test_an_answer_has_its_published_length_or_what_the_model_has_room_for(picture):
    echo = Echo()
    ask(echo, asks(*(Question(i, t, (picture,), 1024, "") for i, t in enumerate(("longish", "nearly")))))
    ask(echo, asks(Question(0, "short", (picture,), 128, "")))
    assert echo.limits == [128, 5, 128]


def test_a_sheet_goes_on_where_it_stopped(picture, tmp_path):
    every = asks(*(Question(i, f"q{i}", (picture,), 8, "") for i in range(6)))
    sheet = Sheet(tmp_path / "sheet")
    assert sheet.missing(every) == every
    sheet.add(ask(Echo(), every[4:]))
    sheet.add(ask(Echo(), every[:2]))
    file = tmp_path / "sheet" / ASKED
    file.write_bytes(file.read_bytes()[:-9])  # a kill in the middle of the last line
    again = Sheet(tmp_path / "sheet")
    assert [a.index for a in again.missing(every)] == [1, 2, 3]
    again.add(ask(Echo(), again.missing(every)))
    again.write()
    lines = [json.loads(line) for line in (tmp_path / "sheet" / "answers.jsonl").read_text().splitlines()]
    assert [r["text"] for r in lines] == [f"Q{i}" for i in range(6)]
    assert not lines[0].keys() & {"index", "condition"} and not (tmp_path / "sheet" / "broken.jsonl").exists()


def test_what_is_broken_is_kept_beside_the_answers(picture, tmp_path):
    sheet = Sheet(tmp_path / "sheet")
    sheet.add(ask(Echo(), asks(Question(0, "wrong", (picture,), 8, ""), Question(1, "q", (picture,), 8, ""))))
    sheet.write()
    assert [b["question_id"] for b in sheet.broken()] == [0]
    assert json.loads((tmp_path / "sheet" / "broken.jsonl").read_text())["broken"] == "the prompt has 9 tokens"
    assert len((tmp_path / "sheet" / "answers.jsonl").read_text().splitlines()) == 1


@pytest.fixture
def table(tmp_path):
    """Five rows in row groups of two, each with a picture and a list of two."""
    shades = [png(tmp_path, i) for i in range(5)]
    rows = [
        {"id": i, "image": {"bytes": s, "path": None}, "frames": [{"bytes": s, "path": None}] * 2}
        for i, s in enumerate(shades)
    ]
    (tmp_path / "en").mkdir()
    path = tmp_path / "en" / "dev-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def png(folder, shade) -> bytes:
    Image.new("RGB", (2, 2), (shade,) * 3).save(folder / "shade.png")
    return (folder / "shade.png").read_bytes()


def test_pictures_of_parquet_are_read_when_they_are_shown(table):
    rows = list(parquet_rows([table], ("image", "frames")))
    assert [r["id"] for r in rows] == list(range(5))
    assert [r["image"].open().getpixel((0, 0))[0] for r in rows] == list(range(5))
    frames = rows[3]["frames"]
    assert InParquet(frames.file, frames.row_group, frames.row, frames.column, 1).open().getpixel((0, 0))[0] == 3
    with pytest.raises(BrokenRecord, match=r"row 1\].frames holds no bytes"):
        InParquet(frames.file, frames.row_group, frames.row, frames.column, 2).open()


def test_parquet_files_are_found_by_split_and_config(table):
    folder = table.parent.parent
    assert parquet_files(folder, "dev") == parquet_files(folder, "dev", "en") == [table]
    assert parquet_files(folder, "test") == parquet_files(folder, "dev", "cn") == []


def test_what_is_no_parquet_is_named(tmp_path, table):
    (tmp_path / "dev-0.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match="not a whole Parquet file"):
        list(parquet_rows([tmp_path / "dev-0.parquet"]))
    with pytest.raises(DataError, match="no column 'picture'; there are id"):
        list(parquet_rows([table], ("picture",)))


def test_bytes_that_came_with_a_question_are_a_picture(tmp_path):
    assert Embedded(png(tmp_path, 7), "row 1").open().getpixel((0, 0)) == (7, 7, 7)
    with pytest.raises(BrokenRecord, match="row 2"):
        Embedded(b"junk", "row 2").open()
