"""Asking: a question that cannot be asked affects no other, and an answered question is not asked again."""

from __future__ import annotations

import json
import weakref
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from remora.data.pictures import Picture
from remora.errors import BrokenRecord, DataError
from remora.evaluation.ask import Ask, ask
from remora.evaluation.hub_tables import InParquet, parquet_files, parquet_rows
from remora.evaluation.identity import PictureDigests, ask_digests, shown
from remora.evaluation.question import InlinePicture, Question
from remora.evaluation.sheet import ASKED, About, Sheet
from remora.files import digest
from remora.inference import Answer, FittedPicture, Prompt


@dataclass(frozen=True, eq=False)
class Asked(Prompt):
    text: str = ""


class Echo:
    """Answers with its question; sees pictures as one pixel. Its context is 1,000 tokens; a text token is a letter."""

    name = "echo"
    max_length = 1000

    def __init__(self):
        self.limits, self.pictures, self.calls = [], [], 0

    def picture(self, image):
        return FittedPicture(image.resize((1, 1)))

    def prompt(self, conversation):
        (turn,) = conversation
        if turn.text == "wrong" or len(turn.text) >= self.max_length:
            raise DataError(f"the prompt has {len(turn.text)} tokens")
        return Asked((0,) * len(turn.text), turn.images, turn.text)

    def room(self, prompt):
        return self.max_length - len(prompt.ids)

    def answer(self, requests):
        self.calls += 1
        self.limits += [request.max_new_tokens for request in requests]
        self.pictures += [request.conversation.pictures for request in requests]
        return [Answer(request.conversation.text.upper(), 1, 2, "stop") for request in requests]


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
    assert (echo.calls, echo.limits) == (1, [8, 16, 8])
    assert echo.pictures[0][0] is echo.pictures[2][0]  # opened once, so hashed once
    assert len({r["answer_id"] for r in lines}) == 3


def test_a_question_that_cannot_be_asked_is_named_and_costs_no_other(picture, tmp_path):
    (tmp_path / "junk.png").write_bytes(b"junk")
    lines = ask(Echo(), asks(
        Question(0, "fine", (picture,), 8, ""),
        Question(1, "missing", (Picture(str(tmp_path / "none.png")),), 8, ""),
        Question(2, "junk", (Picture(str(tmp_path / "junk.png")),), 8, ""),
        Question(3, "wrong", (picture,), 8, ""),
        Question(4, "x" * 1000, (picture,), 8, ""),
    ))  # fmt: skip
    assert [r.get("text") for r in lines] == ["FINE", None, None, None, None]
    reasons = ["missing image", "unreadable", "5 tokens", "1000 tokens"]
    assert all(reason in line["broken"] for reason, line in zip(reasons, lines[1:], strict=True))


def test_an_answer_has_its_published_length_or_what_the_model_has_room_for(picture):
    echo = Echo()
    lengths = (3, 850, 995, 999)
    ask(echo, asks(*(Question(i, "x" * length, (picture,), 1024, "") for i, length in enumerate(lengths))))
    ask(echo, asks(Question(0, "short", (picture,), 128, "")))
    assert echo.limits == [997, 150, 5, 1, 128]


def test_pictures_wait_as_the_encoder_sees_them(tmp_path):
    """One picture at a time is kept at its original size, and each is resized once."""
    places = [tmp_path / f"{i}.png" for i in range(4)]
    for i, place in enumerate(places):
        Image.new("RGB", (40, 30), (60 * i,) * 3).save(place)
    echo = Echo()
    whole: list[weakref.ref[Image.Image]] = []
    shrink = echo.picture

    def shrunk(picture):
        assert not [p for p in whole if p() is not None], "an earlier one is held at its own size"
        whole.append(weakref.ref(picture))
        return shrink(picture)

    echo.picture = shrunk
    ask(echo, asks(*(Question(i, "q", (Picture(str(places[i // 2])),), 8, "") for i in range(8))))
    assert len(whole) == 4
    assert [p.image.getpixel((0, 0))[0] for (p,) in echo.pictures] == [60 * (i // 2) for i in range(8)]
    assert {p.image.size for (p,) in echo.pictures} == {(1, 1)} and len({id(p) for (p,) in echo.pictures}) == 4


def sheet_of(tmp_path, every: list[Ask], **about) -> Sheet:
    """The sheet of a model's answers; `about` overrides the defaults."""
    keys = ask_digests(every, PictureDigests(tmp_path / "contents.json").of(shown(every)))
    said = {"model": "m", "weights": "w", "benchmark": "b", "questions": digest(keys)} | about
    return Sheet(tmp_path / "scores", About(**said), every, keys)


def test_a_sheet_goes_on_where_it_stopped(picture, tmp_path):
    every = asks(*(Question(i, f"q{i}", (picture,), 8, "") for i in range(6)))
    sheet = sheet_of(tmp_path, every)
    assert sheet.missing(every) == every
    sheet.add(ask(Echo(), every[4:]))
    sheet.add(ask(Echo(), every[:2]))
    file = sheet.folder / ASKED
    file.write_bytes(file.read_bytes()[:-9])  # a kill in the middle of the last line
    again = sheet_of(tmp_path, every)
    assert [a.index for a in again.missing(every)] == [1, 2, 3]
    again.add(ask(Echo(), again.missing(every)))
    again.write()
    lines = [json.loads(line) for line in (sheet.folder / "answers.jsonl").read_text().splitlines()]
    assert [r["text"] for r in lines] == [f"Q{i}" for i in range(6)]
    assert not lines[0].keys() & {"index", "condition", "key"} and not (sheet.folder / "broken.jsonl").exists()


def test_what_is_broken_is_kept_beside_the_answers(picture, tmp_path):
    every = asks(Question(0, "wrong", (picture,), 8, ""), Question(1, "q", (picture,), 8, ""))
    sheet = sheet_of(tmp_path, every)
    sheet.add(ask(Echo(), every))
    sheet.write()
    assert [b["question_id"] for b in sheet.broken()] == [0]
    assert json.loads((sheet.folder / "broken.jsonl").read_text())["broken"] == "the prompt has 5 tokens"
    assert len((sheet.folder / "answers.jsonl").read_text().splitlines()) == 1


def answered(tmp_path, every: list[Ask], **about) -> list[int]:
    """Ask what is not answered yet; returns the positions that were asked."""
    sheet = sheet_of(tmp_path, every, **about)
    missing = sheet.missing(every)
    sheet.add(ask(Echo(), missing))
    return [a.index for a in missing]


def test_answers_belong_to_the_weights_the_words_and_the_pixels(picture, tmp_path):
    every = asks(*(Question(i, f"q{i}", (picture,), 8, "") for i in range(4)))
    assert answered(tmp_path, every) == [0, 1, 2, 3]
    assert answered(tmp_path, every, model="renamed") == []
    assert answered(tmp_path, every, weights="others") == [0, 1, 2, 3]
    # A question more, one reworded and one longer: what stayed as it was is not asked again.
    changed = [every[3], Ask(1, "pictures", Question(1, "other", (picture,), 8, "")), *every[2:3]]
    longer = Ask(3, "pictures", Question(0, "q0", (picture,), 16, ""))
    changed = [Ask(i, "pictures", a.question) for i, a in enumerate([*changed, longer])]
    assert answered(tmp_path, changed) == [1, 3]
    sheet = sheet_of(tmp_path, changed)
    assert [(r["question_id"], r["text"]) for r in sheet._ordered("pictures")] == [
        (3, "Q3"), (1, "OTHER"), (2, "Q2"), (0, "Q0"),
    ]  # fmt: skip
    Image.new("RGB", (4, 4), "red").save(picture.location)
    assert answered(tmp_path, every) == [0, 1, 2, 3]


def test_a_moved_folder_asks_nothing_again(picture, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        Image.new("RGB", (4, 4)).save(folder / "a.png")
    Image.new("RGB", (4, 4), "red").save(there / "b.png")
    of = [asks(Question(0, "q", (Picture(str(f / "a.png")),), 8, "")) for f in (here, there)]
    assert [answered(tmp_path, every) for every in of] == [[0], []]
    assert answered(tmp_path, asks(Question(0, "q", (Picture(str(there / "b.png")),), 8, ""))) == [0]


def test_a_picture_that_was_missing_is_asked_about_once_it_is_there(picture, tmp_path):
    late = tmp_path / "late.png"
    every = asks(Question(0, "q0", (picture,), 8, ""), Question(1, "q1", (Picture(str(late)),), 8, ""))
    assert answered(tmp_path, every) == [0, 1] and len(sheet_of(tmp_path, every).broken()) == 1
    assert answered(tmp_path, every) == []
    Image.new("RGB", (4, 4)).save(late)
    assert answered(tmp_path, every) == [1] and not sheet_of(tmp_path, every).broken()


def test_files_are_hashed_once(picture, tmp_path, monkeypatch):
    kept = tmp_path / "contents.json"
    (first,) = PictureDigests(kept).of([picture]).values()
    monkeypatch.setattr("remora.evaluation.identity.sha256_file", lambda path: pytest.fail("hashed again"))
    assert PictureDigests(kept).of([picture]) == {str(picture): first}
    kept.write_text("{torn")
    monkeypatch.undo()
    assert PictureDigests(kept).of([picture]) == {str(picture): first}


def test_pictures_in_tables_and_lines_are_known_by_their_content(table, tmp_path):
    pictures = PictureDigests(tmp_path / "contents.json")
    rows = list(parquet_rows([table], ("image", "frames")))
    assert len(set(pictures.of([r["image"] for r in rows]).values())) == 5
    embedded = [InlinePicture(b"a", "row 1"), InlinePicture(b"a", "row 2"), InlinePicture(b"b", "row 3")]
    found = pictures.of(embedded)
    assert found["row 1"] == found["row 2"] != found["row 3"]


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
    assert InlinePicture(png(tmp_path, 7), "row 1").open().getpixel((0, 0)) == (7, 7, 7)
    with pytest.raises(BrokenRecord, match="row 2"):
        InlinePicture(b"junk", "row 2").open()
