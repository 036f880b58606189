"""MM-Vet: the requests, scores and figures of its evaluator, and broken files."""

from __future__ import annotations

import contextlib
import io
import json

import mmvet_case as case
import pyarrow
import pyarrow.parquet
import pytest

from remora.cli import main
from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark, score
from remora.files import digest
from support.scripted_judge import Fault, scripted

MMVET = benchmark("mmvet")


class Constant:
    """A judge that always says the same."""

    model = "constant"

    def __init__(self, reply="1.0"):
        self.reply, self.asked = reply, []

    def ask(self, messages, *, temperature, max_tokens):
        self.asked.append(messages[0]["content"])
        return self.reply


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "mm-vet"
    folder.mkdir()
    rows = {
        i: {"imagename": f"{i}.png", "question": q, "answer": a, "capability": c, "imagesource": ""}
        for i, (q, a, c) in case.QUESTIONS.items()
    }
    (folder / "mm-vet.json").write_text(json.dumps(rows))
    return folder


def lines(answers=case.ANSWERS):
    common = {"prompt": "", "answer_id": "a", "model_id": "m", "metadata": {}}
    return "".join(json.dumps({"question_id": int(i[3:]), "text": t, **common}) + "\n" for i, t in answers.items())


def graded(scores=case.GRADED):
    return {i: {"model": ["gpt-4-0613"] * len(s), "content": ["x"] * len(s), "score": s} for i, s in scores.items()}


def write(folder, content):
    path = folder / "given"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def tenths(metrics):
    return {k: round(v, 1) for k, v in metrics.items()}


def run(tmp_path, data, answers):
    out = io.StringIO()
    given = ["score", "mmvet", "--data", data, "--answers", answers, "--json", "--runs", tmp_path / "runs"]
    with contextlib.redirect_stdout(out):
        assert not main([str(a) for a in given])
    return json.loads(out.getvalue())


@pytest.mark.parametrize("form", ["lines", "results"])
def test_the_requests_scores_and_figures_are_the_evaluators(data, tmp_path, monkeypatch, form):
    known = {d: (i, n) for i, ds in case.REQUESTS.items() for n, d in enumerate(ds)}
    asked = {i: [] for i in case.REQUESTS}

    def script(body):
        identity, n = known[digest([body["messages"], body["temperature"], body["max_tokens"]])]
        asked[identity].append(n)
        return case.REPLIES[identity][n]

    with scripted(script) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.delenv("REMORA_JUDGE_MODEL", raising=False)
        answers = write(tmp_path, lines() if form == "lines" else case.ANSWERS)
        report = run(tmp_path, data / "mm-vet.json", answers)
        assert {b["model"] for b in server.bodies} == {"gpt-4-0613"}
        again = run(tmp_path, data, answers)
    assert asked == {i: list(range(len(ds))) for i, ds in case.REQUESTS.items()}  # and not one of them twice
    assert again == report and report["judge"] == "gpt-4-0613"
    assert [(i["id"], i["score"]) for i in report["items"]] == list(case.SCORES.items())
    assert {i["id"]: i["answer"] for i in report["items"]} == case.ANSWERS
    assert tenths(report["metrics"]) == case.FIGURES
    assert report["warnings"] == ["v1_7: the judge gave no number in [0, 1]; it counts as wrong"]


def test_grades_need_no_judge_and_sum_as_the_evaluator_does(data, tmp_path, monkeypatch):
    def script(body):
        raise Fault(401)

    with scripted(script) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        report = run(tmp_path, data, write(tmp_path, graded()))
    assert not server.seen
    assert tenths(report["metrics"]) == case.FIGURES_OF_GRADED
    assert report["judge"] == "gpt-4-0613"
    totals = ", ".join(f"{r}" for r in case.RUNS)
    [said] = report["warnings"]
    assert f"3 runs with totals of {totals}; their deviation is {case.DEVIATION}" in said


def test_grades_that_lack_something(data, tmp_path):
    scores = dict(case.GRADED) | {
        "v1_0": [0.1, 0.2],
        "v1_1": [],
        "v1_2": ["0.5"],
        "v1_5": [float("nan")],
        "v1_999": [1],
    }
    del scores["v1_7"]
    given = graded(scores)
    given["v1_11"] = None
    given["v1_13"] = {"score": 0.5}
    report = score(MMVET, data, write(tmp_path, given))
    found = {i.id: i.score for i in report.items}
    assert found["v1_0"] == 0.1 and found["v1_22"] == 0.9  # v1_999 has one run, so one run counts
    assert {i for i, s in found.items() if s == 0} == {"v1_1", "v1_2", "v1_5", "v1_7", "v1_11", "v1_13"}
    for said in (
        "v1_1: no score",
        "v1_2: no score",
        "v1_7 has no answer",
        "v1_999, which",
        "some have more runs than 1",
    ):
        assert any(said in w for w in report.warnings), said


def test_what_is_missing_counts_as_wrong_and_what_is_odd_is_named(data, tmp_path):
    text = "\ufeff" + lines({i: t for i, t in case.ANSWERS.items() if i not in ("v1_0", "v1_1")}).replace("\n", "\r\n")
    text += (
        '{"question_id": 7, "text": "later"}\n{"question_id": "v1_20", "text": 3}\n{"question_id": 0, "text": null}\n'
    )
    text += '{"question_id": 55, "text": "x"}\nnot json\n[1]\n'
    judge = Constant()
    report = score(MMVET, data, write(tmp_path, text), judge=judge)
    assert {i.id: i.answer for i in report.items if i.id in ("v1_7", "v1_20")} == {"v1_7": "later", "v1_20": "3"}
    assert [i.id for i in report.items if i.score == 0] == ["v1_0", "v1_1"] and report.judge == "constant"
    assert len(judge.asked) == len(case.QUESTIONS) - 2
    for said in (
        "given:11: another answer to v1_7",
        "given:13: no text",
        "answer to v1_55",
        "given:15: not JSON",
        "v1_0 has no",
    ):
        assert any(said in w for w in report.warnings), (said, report.warnings)


@pytest.mark.parametrize("reply", ["nan", "NaN", "-nan 1"])
def test_a_reply_of_nan_is_no_score_and_is_not_asked_for_again(data, tmp_path, reply):
    judge = Constant(reply)
    report = score(MMVET, data, write(tmp_path, lines()), judge=judge)
    assert report.metrics["total"] == 0 and len(judge.asked) == len(case.QUESTIONS)
    assert len(report.warnings) == len(case.QUESTIONS)


def as_llava(data):
    rows = [
        {"image": f"{i}.png", "text": q[0], "category": "conv", "question_id": int(i[3:])}
        for i, q in case.QUESTIONS.items()
    ]
    (data / "mm-vet.json").unlink()
    (data / "llava-mm-vet.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def as_parquet(data, png):
    rows = [
        {"question_id": i, "image": {"bytes": png, "path": f"{i}.png"}, "question": q, "answer": a,
         "image_source": "", "capability": ",".join(c)}
        for i, (q, a, c) in case.QUESTIONS.items()
    ]  # fmt: skip
    (data / "mm-vet.json").unlink()
    (data / "data").mkdir()
    for n, part in enumerate((rows[:5], rows[5:])):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), data / "data" / f"test-0000{n}-of-00002.parquet")


@pytest.fixture
def png():
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("layout", ["distributed", "llava", "llava's file", "parquet"])
def test_the_questions_are_asked_as_they_are_in_every_layout(data, png, layout):
    (data / "images").mkdir()
    for i in case.QUESTIONS:
        (data / "images" / f"{i}.png").write_bytes(png)
    if layout.startswith("llava"):
        as_llava(data)
    if layout == "parquet":
        as_parquet(data, png)
    found = MMVET.questions(data / "llava-mm-vet.jsonl" if layout == "llava's file" else data)
    assert [(q.id, q.text, q.max_new_tokens) for q in found] == [
        (int(i[3:]), q[0], 1024) for i, q in case.QUESTIONS.items()
    ]
    assert all(q.pictures[0].open().size == (3, 2) for q in found)


def test_the_hubs_files_are_scored_as_the_distributed_ones_are(data, png, tmp_path):
    first = score(MMVET, data, write(tmp_path, graded()))
    as_parquet(data, png)
    second = score(MMVET, data, write(tmp_path, graded()))
    assert second.metrics == first.metrics
    alone = score(MMVET, data / "data" / "test-00000-of-00002.parquet", write(tmp_path, graded()))
    assert [i.id for i in alone.items] == list(case.QUESTIONS)[:5]


def test_a_submission_has_every_question(data, tmp_path):
    given = {i: t for i, t in case.ANSWERS.items() if i != "v1_5"}
    [path] = MMVET.submission(data, write(tmp_path, lines(given)), tmp_path / "new" / "out")
    assert json.loads(path.read_text()) == case.ANSWERS | {"v1_5": ""}


def test_what_is_no_mm_vet_is_said(data, tmp_path):
    answers = write(tmp_path, lines())
    with pytest.raises(DataError, match=r"need a judge"):
        score(MMVET, data, answers)
    (data / "mm-vet.json").unlink()
    with pytest.raises(DataError, match=r"no mm-vet\.json or test-\*\.parquet in"):
        score(MMVET, data, answers, judge=Constant())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not MM-Vet's questions"),
        ("{}", "not MM-Vet's questions"),
        ('{"v1_0": 5}', "v1_0 is not a question"),
        ('{"v1_0": {"question": "q", "answer": null, "capability": ["rec"]}}', "v1_0 is not a question"),
        (
            '{"other": {"question": "q", "answer": "a", "capability": ["rec"]}}',
            "no answer is to one of",
        ),
    ],
)
def test_other_data_is_said(data, tmp_path, content, said):
    (data / "mm-vet.json").write_text(content)
    with pytest.raises(DataError, match=said) as failed:
        score(MMVET, data, write(tmp_path, lines()), judge=Constant())
    assert "\n" not in str(failed.value)
