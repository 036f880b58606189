"""ScienceQA. What each text was read as, and the golden figures, were given by llava/eval/eval_science_qa.py of
haotian-liu/LLaVA c121f04, and the breakdowns by tools/evaluate_acc.py of lupantech/ScienceQA 2cbf831 on its result."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest
from answer_files import printed, write

from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark, score
from remora.evaluation.benchmarks.scienceqa import letter

SQA = benchmark("scienceqa")
SUFFIX = "\nAnswer with the option's letter from the given choices directly."
READ = {
    "A": ["A", "A. ", "A. foo", "A. \n", "A. B. C", "A. The answer is B.", "The answer is A.", "The answer is A!",
          "So the answer is B. The answer is A, ok", "The answer is A\u2028", "The answer is AB", "The answer is A "],
    "B": ["B", "B. the dog.", "The answer is B.\nThe answer is C", "(The answer is B)", "xThe answer is B."],
    "E": ["E", "E. none"],
    "F": ["The answer is F."],
    "": ["", " ", "a", "A.", "A.x", "A)", "(A)", " A", "A ", "A\n", "A:", "A .", "F", "F. x", "a. x", "AA. x", "A,",
         "The answer is A", "The answer is A\n.", "the answer is A.", "The answer is a.", "The answer is  A.",
         "The answer is A. The answer is A.", "The answer is A. The answer is B.", "The Answer is A.", "A.\u00a0x",
         "Α", "Ａ", "answer: A", "The answer is (A).", "The answer is: A."],
}  # fmt: skip
TEXTS = [t for texts in READ.values() for t in texts]
SUBJECTS = ["natural science", "social science", "language science"]
GOLDEN = {
    "accuracy": "40.10", "img_accuracy": "38.46", "accuracy.NAT": "37.35", "accuracy.SOC": "41.82",
    "accuracy.LAN": "42.59", "accuracy.TXT": "53.12", "accuracy.IMG": "37.50", "accuracy.NO": "37.50",
    "accuracy.G1-6": "41.67", "accuracy.G7-12": "38.54",
}  # fmt: skip


@pytest.mark.parametrize(("read", "said"), [(k, t) for k, texts in READ.items() for t in texts])
def test_what_is_read(read, said):
    assert letter(said) == read


def problems(count: int = 240) -> dict[str, dict]:
    """The test split and, in between, others."""
    return {
        str(i + 7): {
            "question": f"Which is {i}?",
            "choices": ["one", "two", "three", "four", "five"][: 2 + i % 4],
            "answer": (i // 3) % (2 + i % 4),
            "hint": "" if i % 3 else f"Hint {i}.\nMore.",
            "image": "image.png" if i % 2 else None,
            "grade": f"grade{1 + i % 12}",
            "subject": SUBJECTS[i % 7 % 3],
            "split": "train" if i % 5 == 4 else "test",
        }
        for i in range(count)
    }


def chosen() -> dict[str, dict]:
    return {i: p for i, p in problems().items() if p["split"] == "test"}


def prompt(problem) -> str:
    hint = f"Context: {problem['hint']}\n" if problem["hint"] else ""
    letters = "\n".join(f"{'ABCDE'[n]}. {c}" for n, c in enumerate(problem["choices"]))
    return ("<image>\n" if problem["image"] else "") + f"{hint}{problem['question']}\n{letters}" + SUFFIX


def lines() -> list[dict]:
    """LLaVA's answers, of which two in a hundred are missing and some prompts are unlike their question."""
    found = []
    for n, (i, p) in enumerate(chosen().items()):
        text = TEXTS[(n * 7 + n // 5) % len(TEXTS)] if n % 3 else "ABCDE"[p["answer"]] + ". x" * (n % 2)
        if n % 50 != 9:
            asked = prompt(p).replace("<image>\n", "") if n % 41 == 1 else prompt(p)
            found.append({"question_id": i, "prompt": asked, "text": text})
    return found


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "scienceqa"
    folder.mkdir()
    (folder / "problems.json").write_text(json.dumps(problems()))
    (folder / "pid_splits.json").write_text(json.dumps({"train": [], "test": list(chosen())}))
    return folder


def test_llavas_answers(data, tmp_path):
    report = score(SQA, data, write(tmp_path / "a.jsonl", lines()))
    assert printed(report.metrics) == GOLDEN
    assert [i.id for i in report.items] == list(chosen())
    said = "\n".join(report.warnings)
    first = list(chosen())[9]
    assert f"question {first} has no answer; it counts as wrong" in said
    assert f"question {first} has no answer; as in LLaVA's script it is not counted in img_accuracy" in said
    assert "the prompt of 8 does not show `<image>`, unlike its question; the prompt counts" in said


def test_a_missing_answer_is_wrong_among_all_and_not_among_those_with_a_picture(data, tmp_path):
    rows = [{"question_id": i, "prompt": prompt(p), "text": "ABCDE"[p["answer"]]} for i, p in chosen().items()]
    pictured = next(n for n, r in enumerate(rows) if "<image>" in r["prompt"])
    del rows[pictured]
    metrics = score(SQA, data, write(tmp_path / "a.jsonl", rows)).metrics
    assert metrics["img_accuracy"] == 100
    assert metrics["accuracy"] == pytest.approx(100 * len(rows) / (len(rows) + 1))


def test_prompts_that_never_show_a_picture_do_not_count(data, tmp_path):
    rows = [{"question_id": i, "text": "ABCDE"[p["answer"]]} for i, p in chosen().items() if p["image"]]
    report = score(SQA, data, write(tmp_path / "a.jsonl", rows))
    assert report.metrics["img_accuracy"] == 100
    assert any("img_accuracy is over the questions with a picture" in w for w in report.warnings)


@pytest.mark.parametrize("as_text", [True, False])
def test_a_result_file(data, tmp_path, as_text):
    """lupantech's and LLaVA's: indices, which may be text, and no prompts."""
    items = score(SQA, data, write(tmp_path / "a.jsonl", lines())).items
    index = {i.id: "ABCDE".find(i.parsed) if i.parsed else -1 for i in items}
    path = tmp_path / "result.json"
    results = {i: str(n) if as_text else n for i, n in index.items()}
    path.write_text(json.dumps({"acc": 1.0, "results": results, "outputs": {i.id: i.answer for i in items}}, indent=2))
    report = score(SQA, data, path)
    assert [(i.answer, i.score) for i in report.items] == [(i.answer, i.score) for i in items]
    got = printed(report.metrics)
    assert {k: v for k, v in got.items() if k != "img_accuracy"} == {
        k: v for k, v in GOLDEN.items() if k != "img_accuracy"
    }
    assert got["img_accuracy"] == GOLDEN["accuracy.IMG"]
    assert report.warnings == []


def test_a_result_file_that_is_partly_none(data, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"results": {"7": 0, "8": None, "9": "x", "x": 1}}))
    report = score(SQA, data, path)
    assert [i.parsed for i in report.items[:3]] == ["A", "", ""]
    said = "\n".join(report.warnings)
    assert (
        "result of 8: 'None' is not an index" in said and "question 8 has no answer" in said and "answer to x" in said
    )
    path.write_text(json.dumps({"results": {"x": 1}}))
    with pytest.raises(DataError, match="no answer is to one of the 192 questions"):
        score(SQA, data, path)


def test_layouts_ask_the_same(data, tmp_path):
    (data / "images" / "test").mkdir(parents=True)
    by_file = SQA.questions(data)
    llava = tmp_path / "llava"
    llava.mkdir()
    entries = [
        {"id": i, "conversations": [{"from": "human", "value": prompt(p)[: -len(SUFFIX)]}]}
        | ({"image": f"{i}/image.png"} if p["image"] else {})
        for i, p in chosen().items()
    ]
    (llava / "llava_test_CQM-A.json").write_text(json.dumps(entries))
    by_llava = SQA.questions(llava)
    hub = tmp_path / "hub" / "ScienceQA-FULL"
    hub.mkdir(parents=True)
    table = [
        p | {"image": {"bytes": b"x", "path": None} if p["image"] else None, "lecture": ""} for p in chosen().values()
    ]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(table), hub / "test-00000-of-00001.parquet", row_group_size=50
    )
    by_hub = SQA.questions(hub.parent)
    expected = [(prompt(p).removeprefix("<image>\n"), prompt(p), bool(p["image"]), 1024) for p in chosen().values()]
    for found in (by_file, by_llava, by_hub):
        assert [(q.text, q.prompt or q.text, bool(q.pictures), q.max_new_tokens) for q in found] == expected
    assert [q.id for q in by_file] == [q.id for q in by_llava] == list(chosen())
    assert by_file[1].pictures[0].location == str(data / "images" / "test" / "8" / "image.png")
    rows = [{"question_id": q.id, "prompt": q.prompt or q.text, "text": "A"} for q in by_hub]
    from_hub = score(SQA, hub.parent, write(tmp_path / "a.jsonl", rows)).metrics
    rows = [{"question_id": q.id, "prompt": q.prompt or q.text, "text": "A"} for q in by_file]
    assert from_hub == score(SQA, data, write(tmp_path / "a.jsonl", rows)).metrics
    with pytest.raises(DataError, match=r"version mismatch: a\.jsonl:1 .*problems\.json"):
        score(SQA, hub.parent, tmp_path / "a.jsonl")


def test_problems_without_splits_say_their_own(data, tmp_path):
    (data / "pid_splits.json").unlink()
    report = score(SQA, data / "problems.json", write(tmp_path / "a.jsonl", lines()))
    assert printed(report.metrics) == GOLDEN


def test_no_data_says_what_is_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"problems\.json"):
        SQA.questions(tmp_path)
