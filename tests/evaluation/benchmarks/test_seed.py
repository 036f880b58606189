"""SEED-Bench-1. The golden figures are from scripts/convert_seed_for_submission.py of haotian-liu/LLaVA c121f04."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest
from answer_files import printed, write

from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark, score
from remora.evaluation.benchmarks.seed import DIMENSIONS

SEED = benchmark("seed")
SUFFIX = "\nAnswer with the option's letter from the given choices directly."
GOLDEN = {
    "dimension.Scene Understanding": "30.00", "dimension.Instance Identity": "13.33",
    "dimension.Instance Attributes": "23.33", "dimension.Instance Location": "13.33",
    "dimension.Instances Counting": "20.00", "dimension.Spatial Relation": "26.67",
    "dimension.Instance Interaction": "20.00", "dimension.Visual Reasoning": "20.00",
    "dimension.Text Understanding": "16.67", "dimension.Action Recognition": "23.33",
    "dimension.Action Prediction": "16.67", "dimension.Procedure Understanding": "23.33", "total": "20.56",
    "image": "20.37", "video": "21.11",
}  # fmt: skip
DRESS = ["{}", "{}", "{}", "{}.", " {}", "{} ", "({})", "{}. word", "", "{}\n", "The answer is {}", "{0}{0}"]


def questions(count: int = 360) -> list[dict]:
    """Nine dimensions of pictures, whose ids are numbers in text, and three of videos."""
    found = []
    for i in range(count):
        kind = i % 12 + 1
        video = kind > 9
        found.append(
            {
                "question_id": f"v{i}" if video else str(100 + i),
                "question": f"What is {i}?",
                "answer": "ABCD"[i // 3 % 4],
                "choice_a": "one",
                "choice_b": "two",
                "choice_c": "three",
                "choice_d": f"four {i}",
                "data_type": "video" if video else "image",
                "data_id": f"{i // 2}.mp4" if video else f"{i // 24}_picture",
                "question_type_id": kind,
            }
        )
    return found


def lines() -> list[dict]:
    """LLaVA's answers: numbers are ids of pictures' questions. Some are missing."""
    found = []
    for n, q in enumerate(questions()):
        text = DRESS[(n * 5 + n // 12) % 12].format(q["answer"] if n % 5 else "ABCD"[n % 4])
        if n % 30 != 7:
            given = int(q["question_id"]) if q["data_type"] == "image" else q["question_id"]
            found.append({"question_id": given, "prompt": q["question"], "text": text})
    return found


def whole() -> dict:
    return {"questions": questions(), "question_type": {name: i for i, name in enumerate(DIMENSIONS, 1)}}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "seed_bench"
    folder.mkdir()
    (folder / "SEED-Bench.json").write_text(json.dumps(whole()))
    return folder


def test_llavas_answers(data, tmp_path):
    report = score(SEED, data, write(tmp_path / "a.jsonl", lines()))
    assert printed(report.metrics) == GOLDEN
    assert report.n == 360
    assert [w for w in report.warnings if "has no answer; it counts as wrong" in w] == report.warnings


def test_the_leaderboards_lines(data, tmp_path):
    rows = [{"question_id": str(r["question_id"]), "prediction": r["text"]} for r in lines()]
    report = score(SEED, data / "SEED-Bench.json", write(tmp_path / "a.jsonl", rows))
    assert printed(report.metrics) == GOLDEN


def test_an_id_is_its_number(data, tmp_path):
    """As the script reads the data's."""
    asked = whole()
    asked["questions"][0]["question_id"] = "0100"
    (data / "SEED-Bench.json").write_text(json.dumps(asked))
    report = score(SEED, data, write(tmp_path / "a.jsonl", lines()))
    assert printed(report.metrics) == GOLDEN
    assert report.items[0].id == "0100"


def test_names_are_those_of_the_file(data, tmp_path):
    names = {f"dimension {i}": i for i in range(1, 13)}
    (data / "SEED-Bench.json").write_text(json.dumps(whole() | {"question_type": names}))
    metrics = score(SEED, data, write(tmp_path / "a.jsonl", lines())).metrics
    assert f"{metrics['dimension.dimension 3']:.2f}" == GOLDEN[f"dimension.{DIMENSIONS[2]}"]


def test_what_is_uploaded(data, tmp_path):
    """As the script writes it, for every question in the data's order; what it would stop at, an answer that is
    missing, is empty."""
    (path,) = SEED.submission(data, write(tmp_path / "a.jsonl", lines()), tmp_path / "upload")
    said = {str(r["question_id"]): r["text"] for r in lines()}
    expected = [{"question_id": q["question_id"], "prediction": said.get(q["question_id"], "")} for q in questions()]
    assert path.read_text() == "".join(json.dumps(r) + "\n" for r in expected)


def test_layouts_ask_the_same(data, tmp_path):
    (data / "SEED-Bench-image").mkdir()
    by_file = SEED.questions(data)
    choices = [(q["question"], q["choice_d"]) for q in questions()]
    texts = [f"{text}\nA. one\nB. two\nC. three\nD. {last}{SUFFIX}" for text, last in choices]
    ids = [int(q["question_id"]) if q["data_type"] == "image" else q["question_id"] for q in questions()]
    llava = tmp_path / "llava"
    (llava / "SEED-Bench-image").mkdir(parents=True)
    rows = [
        {"question_id": i, "image": q.pictures[0].location.removeprefix(f"{data}/"), "text": t, "category": "x"}
        for i, t, q in zip(ids, texts, by_file, strict=True)
    ]
    write(llava / "llava-seed-bench.jsonl", rows)
    by_llava = SEED.questions(llava)
    assert rows[0]["image"] == "SEED-Bench-image/0_picture"
    assert rows[9]["image"] == "SEED-Bench-video-image/10_v9.png"
    hub = tmp_path / "hub" / "data"
    hub.mkdir(parents=True)
    table = [
        q | {"image": [{"bytes": b"x", "path": f"{n}"} for n in range(8 if q["data_type"] == "video" else 1)]}
        for q in questions()
    ]
    path = hub / "test-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path, row_group_size=99)
    by_hub = SEED.questions(hub.parent)
    for found in (by_file, by_llava, by_hub):
        assert [q.id for q in found] == ids
        assert [(q.text, q.max_new_tokens) for q in found] == [(t, 128) for t in texts]
    assert by_llava[9].pictures[0].location == str(llava / "SEED-Bench-video-image" / "10_v9.png")
    assert [by_hub[i].pictures[0].nth for i in (8, 9)] == [0, 3]
    assert (by_hub[100].pictures[0].row_group, by_hub[100].pictures[0].row) == (1, 1)
    assert printed(score(SEED, hub.parent, write(tmp_path / "a.jsonl", lines())).metrics) == GOLDEN


def test_answers_to_other_questions_are_an_error(data, tmp_path):
    with pytest.raises(DataError, match=r"no answer is to one of the 360 questions.*'9'.*'100'"):
        score(SEED, data, write(tmp_path / "a.jsonl", [{"question_id": 9, "text": "A"}]))


def test_no_data_says_what_is_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"SEED-Bench\.json"):
        SEED.questions(tmp_path)
