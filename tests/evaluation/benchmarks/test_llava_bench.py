"""LLaVA-Bench: the requests, scores and figures of LLaVA's scripts, and broken files."""

from __future__ import annotations

import contextlib
import io
import json

import llava_bench_case as case
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from remora.cli import main
from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark, score
from remora.evaluation.benchmarks.llava_bench.files import read_review
from remora.files import digest
from support.scripted_judge import Fault, scripted

BENCH = benchmark("llava-bench")
KEYS = ("question_id", "image", "category", "text")


class Constant:
    model = "constant"

    def __init__(self):
        self.asked = []

    def ask(self, messages, *, temperature, max_tokens):
        self.asked.append(messages[1]["content"])
        return "8 4"


def write(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def answers(texts=case.ANSWERS):
    return [{"question_id": i, "text": t, "answer_id": f"a{i}", "model_id": "m"} for i, t in enumerate(texts)]


def reviews():
    pairs = [(category, pair) for category, pairs in case.REVIEWED.items() for pair in pairs]
    return [
        {"id": i + 1, "question_id": i, "category": f"llava_bench_{c}", "tuple": p} for i, (c, p) in enumerate(pairs)
    ]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "llava-bench-in-the-wild"
    folder.mkdir()
    write(folder / "questions.jsonl", [dict(zip(KEYS, q, strict=True)) for q in case.QUESTIONS])
    write(folder / "context.jsonl", [{"id": k[:3], "image": k, "caption": c} for k, c in case.CONTEXT.items()])
    write(folder / "answers_gpt4.jsonl", [{"question_id": i, "text": t} for i, t in enumerate(case.REFERENCE)])
    return folder


def as_parquet(data):
    out = io.BytesIO()
    Image.new("RGB", (3, 2)).save(out, "PNG")
    rows = [
        {
            "question_id": str(i),
            "question": text,
            "image": {"bytes": out.getvalue(), "path": None},
            "caption": c if isinstance(c := case.CONTEXT[image], str) else "\n".join(c),
            "gpt_answer": case.REFERENCE[i],
            "category": category,
            "image_id": image,
        }
        for i, image, category, text in case.QUESTIONS
    ]
    for old in data.iterdir():
        old.unlink()
    (data / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data / "data" / "train-00000-of-00001.parquet")


def printed(metrics):
    """What LLaVA's summary prints, by category."""
    names = [k.removeprefix("score").lstrip(".") for k in metrics if k.startswith("score")]
    return {
        name: tuple(round(metrics[kind + (f".{name}" if name else "")], 1) for kind in ("score", "gpt4", "model"))
        for name in names
    }


def run(tmp_path, data, given):
    out = io.StringIO()
    arguments = ["score", "llava-bench", "--data", data, "--answers", given, "--json", "--runs", tmp_path / "runs"]
    with contextlib.redirect_stdout(out):
        assert not main([str(a) for a in arguments])
    return json.loads(out.getvalue())


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["folder", "file", "parquet"])
def test_the_requests_scores_and_figures_are_llavas(data, tmp_path, monkeypatch, layout):
    asked = []

    def script(body):
        asked.append(case.REQUESTS.index(digest([body["messages"], body["temperature"], body["max_tokens"]])))
        return case.REPLIES[asked[-1]]

    if layout == "parquet":
        as_parquet(data)
    given = write(tmp_path / "given", answers())
    with scripted(script) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.delenv("REMORA_JUDGE_MODEL", raising=False)
        report = run(tmp_path, data / "questions.jsonl" if layout == "file" else data, given)
        again = run(tmp_path, data, given)
        assert {b["model"] for b in server.bodies} == {"gpt-4-0314"}
    assert sorted(asked) == list(range(len(case.QUESTIONS)))
    assert again == report and report["judge"] == "gpt-4-0314"
    assert [i["id"] for i in report["items"]] == [str(q[0]) for q in case.QUESTIONS]
    assert [list(map(float, (i["parsed"] or "-1 -1").split())) for i in report["items"]] == case.TUPLES
    assert [i["score"] for i in report["items"]] == [t[1] for t in case.TUPLES]
    assert printed(report["metrics"]) == case.PRINTED
    assert [w[:10] for w in report["warnings"]] == [f"question {i}" for i, t in enumerate(case.TUPLES) if t[0] < 0]


def test_reviews_need_no_judge_and_sum_as_llavas_do(data, tmp_path, monkeypatch):
    def script(body):
        raise Fault(401)

    with scripted(script) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        report = run(tmp_path, data, write(tmp_path / "given", reviews()))
    assert not server.seen and "judge" not in report
    assert printed(report["metrics"]) == case.PRINTED_OF_REVIEWS
    exact = {i: [r["tuple"] for r in reviews() if not i or r["category"].endswith(i)] for i in ("", "complex")}
    for category, pairs in exact.items():  # but for the tenth, nothing is rounded
        found = report["metrics"]["score" + (f".{category}" if category else "")]
        assert found == pytest.approx(100 * sum(p[1] for p in pairs) / sum(p[0] for p in pairs), abs=1e-9)


def test_reviews_of_every_sort_count_as_they_do_in_llavas_summary(data, tmp_path):
    rows = [
        {"question_id": 1, "tuple": [8, 4], "category": "llava_bench_conv"},
        {"question_id": 0, "score": [9.0, 3]},
        {"question_id": 1, "tuple": [7, 7], "category": "conv"},
        {"question_id": 77, "tuple": [6, 1], "category": "generic"},
        {"question_id": 2, "tuple": [6]},
        {"question_id": 3, "tuple": "8 7"},
        {"question_id": 4, "tuple": [float("nan"), 1]},
        {"tuple": [1, 1]},
        "torn {",
    ]
    report = score(BENCH, data, write(tmp_path / "given", rows))
    assert [i.id for i in report.items] == ["0", "1", "1", "77"]
    assert report.metrics["score"] == pytest.approx(100 * 15 / 30)
    assert report.metrics["score.conv"] == pytest.approx(100 * 11 / 15)
    assert report.metrics["model.generic"] == pytest.approx(10) and "score.detail" not in report.metrics
    said = "\n".join(report.warnings)
    for part in (
        "given:3: another review of 1",
        "review of 77",
        "given:5:",
        "given:6:",
        "given:7:",
        "given:8:",
        "given:9:",
    ):
        assert part in said, said
    assert "question 5 has no review" in said


def test_answers_belong_to_their_ids_and_the_rest_is_left_out(data, tmp_path):
    rows = [*reversed(answers()[2:]), {"question_id": 99, "text": "x"}, {"question_id": 1, "text": None}, "[]"]
    judge = Constant()
    report = score(BENCH, data, write(tmp_path / "given", rows), judge=judge)
    assert [i.id for i in report.items] == [str(q[0]) for q in case.QUESTIONS[2:]]
    assert [i.answer for i in report.items] == case.ANSWERS[2:] and report.metrics["score"] == 50
    assert len(judge.asked) == len(report.items)
    said = "\n".join(report.warnings)
    for part in (
        "question 0 has no answer",
        "question 1 has no answer",
        "answer to 99",
        "given:9: no text",
        "given:10:",
    ):
        assert part in said, said


def test_the_questions_are_asked_as_they_are_in_every_layout(data):
    (data / "images").mkdir()
    Image.new("RGB", (3, 2)).save(data / "images" / "001.jpg")
    expected = [(i, text, 1024, image) for i, image, _, text in case.QUESTIONS]
    found = BENCH.questions(data)
    assert [(q.id, q.text, q.max_new_tokens, q.group) for q in found] == expected
    assert found[0].pictures[0].open().size == (3, 2)
    (data / "images" / "001.jpg").unlink()
    (data / "images").rmdir()
    as_parquet(data)
    found = BENCH.questions(data)
    assert [(q.id, q.text, q.max_new_tokens, q.group) for q in found] == expected
    assert found[0].pictures[0].open().size == (3, 2)


@pytest.mark.parametrize(
    ("file", "rows", "said"),
    [
        ("questions.jsonl", [{"question_id": 0, "text": "x"}, "{"], "questions.jsonl:2: not JSON"),
        ("questions.jsonl", [{"question_id": 0, "image": "x", "text": "x"}], "no category in record 1"),
        ("questions.jsonl", [{"question_id": 0, "image": "001.jpg", "text": "x", "category": "coding"}], "no category"),
        ("context.jsonl", [{"image": "001.jpg", "caption": "x"}], "nothing about 002.jpg"),
        ("context.jsonl", [{"image": "001.jpg", "caption": None}], "caption is not text"),
        ("answers_gpt4.jsonl", [{"question_id": 0, "text": "x"}], "no answer to question 1"),
        ("context.jsonl", None, "missing file"),
        ("questions.jsonl", None, r"no questions\.jsonl or train-\*\.parquet"),
    ],
)
def test_other_data_is_said(data, tmp_path, file, rows, said):
    (data / file).unlink() if rows is None else write(data / file, rows)
    with pytest.raises(DataError, match=said) as failed:
        score(BENCH, data, write(tmp_path / "given", answers()), judge=Constant())
    assert "\n" not in str(failed.value)


def test_answers_that_cannot_be_scored_are_said(data, tmp_path):
    with pytest.raises(DataError, match="need a judge"):
        score(BENCH, data, write(tmp_path / "given", answers()))
    with pytest.raises(DataError, match="no answer is to one of the 9 questions"):
        score(BENCH, data, write(tmp_path / "given", [{"question_id": 99, "text": "x"}]), judge=Constant())
    with pytest.raises(DataError, match="no review in it"):
        score(BENCH, data, write(tmp_path / "given", [{"question_id": 0, "tuple": []}]))


@pytest.mark.parametrize(
    ("reply", "pair"),
    [
        ("8 7", (8, 7)),
        ("8,7", (8, 7)),
        ("8\n7", None),
        ("8  7", None),
        (" 8 7", None),
        ("8\t7", None),
        ("8 7 6", None),
        ("8/10 7/10", None),
        ("8 7\u2028and", None),
        ("8_0 +7.", (80, 7)),
        ("nan 7", None),
        ("inf 7", None),
        ("8 1" + "0" * 400, None),
        ("", None),
    ],
)
def test_the_first_line_of_a_review(reply, pair):
    assert read_review(reply) == pair
