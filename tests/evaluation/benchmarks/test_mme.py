"""MME. What each text was read as, and the golden scores, were given by calculation.py of the official eval_tool
(branch Evaluation of BradyFU/Awesome-Multimodal-Large-Language-Models, dd29509) on what LLaVA's
convert_answer_to_mme.py (in eval.zip, haotian-liu/LLaVA 32cebc3) made of these lines."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from answer_files import write

from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark
from remora.evaluation.benchmarks.mme import yes_or_no
from remora.evaluation.benchmarks.mme.files import SUBTASKS
from remora.evaluation.figures import value

MME = benchmark("mme")
SUFFIX = "\nAnswer the question using a single word or phrase."
YES = ["yes", "Yes", "YES", "Yes.", "yes, no", " yes", "yesno", "eyes", "yes\u00a0no", "\u200byes"]
NO = ["no", "No", "NO.", "not", "nope", "none", "no yes", "kno", "  no", "know", "yno", "unno"]
OTHER = [
    "", " ", "y", "n", "ye", "  yes", "   no", "The answer is yes", "maybe", "a, yes", "n o", "да", "ＮＯ", "y e s",
    "\u0130\u0130no", ".....no", "ye no", "N",
]  # fmt: skip
SOLO = ("existence", "count", "position", "color", "OCR", *SUBTASKS[10:])
GOLDEN = {
    "perception": 420.833333, "cognition": 145.833333, "subtask.existence": 45.833333, "subtask.count":
    54.166667, "subtask.position": 54.166667, "subtask.color": 41.666667, "subtask.posters": 37.5,
    "subtask.celebrity": 45.833333, "subtask.scene": 20.833333, "subtask.landmark": 37.5, "subtask.artwork":
    45.833333, "subtask.OCR": 37.5, "subtask.commonsense_reasoning": 29.166667, "subtask.numerical_calculation":
    37.5, "subtask.text_translation": 50.0, "subtask.code_reasoning": 29.166667,
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "read"), [(t, "yes") for t in YES] + [(t, "no") for t in NO] + [(t, "other") for t in OTHER]
)
def test_what_is_read(said, read):
    assert yes_or_no(said) == read


def questions(subtask: str) -> list[tuple[str, str, str, str]]:
    """(picture's path, stem, question, truth), two to a picture; some have two spaces before the instruction."""
    found = []
    for i in range(12):
        stem = f"{i:04d}"
        folder = subtask if subtask in SOLO else f"{subtask}/images"
        image = f"{folder}/{stem}.{'png' if i % 2 else 'jpg'}"
        for what, truth in (("a cat", "Yes"), ("a dog", "No")):
            gap = " " * (1 + i % 2)
            found.append((image, stem, f"Is there {what} in {subtask} {i}?{gap}Please answer yes or no.", truth))
    return found


def release(tmp_path):
    root = tmp_path / "MME" / "MME_Benchmark_release_version"
    for subtask in SUBTASKS:
        for image, stem, question, truth in questions(subtask):
            (root / image).parent.mkdir(parents=True, exist_ok=True)
            (root / image).touch()
            texts = root / subtask if subtask in SOLO else root / subtask / "questions_answers_YN"
            texts.mkdir(exist_ok=True)
            with (texts / f"{stem}.txt").open("a") as file:
                file.write(f"{question}\t{truth}\n")
    return root.parent


def prompt(question: str) -> str:
    return question.replace("Please answer yes or no.", "").strip() + SUFFIX


def lines() -> list[dict]:
    """LLaVA's answers."""
    texts = YES + NO + OTHER + YES
    found = []
    for s, subtask in enumerate(SUBTASKS):
        for n, (image, _, question, _) in enumerate(questions(subtask)):
            text = texts[(n * 5 + s * 3 + n // 4) % len(texts)]
            found.append({"question_id": image, "prompt": prompt(question), "text": text})
    return found


def score(data, answers, questions=None):
    """A report without intervals, which take long to compute."""
    graded = MME.grade(data, answers, "official", questions, None)
    metrics = {k: value(f) for k, f in MME.figures(graded.items).items()}
    return SimpleNamespace(metrics=metrics, items=graded.items, n=len(graded.items), warnings=graded.warnings)


def tool(tmp_path, change=lambda row: row):
    """The official tool's files."""
    folder = tmp_path / "Your_Results"
    folder.mkdir()
    said = iter(lines())
    for subtask in SUBTASKS:
        rows = [change([f"{q[1]}.txt", q[2], q[3], next(said)["text"]]) for q in questions(subtask)]
        (folder / f"{subtask}.txt").write_text("".join("\t".join(r) + "\n" for r in rows))
    return folder


def scores(metrics):
    return {k: round(v, 6) for k, v in metrics.items() if not k.startswith("accuracy")}


def test_llavas_answers(tmp_path):
    report = score(release(tmp_path), write(tmp_path / "a.jsonl", lines()))
    assert scores(report.metrics) == GOLDEN
    assert report.warnings == []
    both = report.metrics["accuracy.count"] + report.metrics["accuracy_plus.count"]
    assert both == report.metrics["subtask.count"]
    assert [(i.answer, i.parsed) for i in report.items] == [(r["text"], yes_or_no(r["text"])) for r in lines()]


def test_answers_of_a_picture_belong_together_in_any_order(tmp_path):
    rows = lines()
    mixed = [rows[(i * 89) % len(rows)] for i in range(len(rows))]
    report = score(release(tmp_path), write(tmp_path / "a.jsonl", mixed))
    assert scores(report.metrics) == GOLDEN
    assert "existence: a picture's two answers are not in consecutive lines" in "\n".join(report.warnings)


def test_the_tools_own_files(tmp_path):
    report = score(release(tmp_path), tool(tmp_path))
    assert scores(report.metrics) == GOLDEN
    assert report.warnings == []


def test_the_tools_files_may_name_the_picture_and_hold_tabs(tmp_path):
    def change(row):
        return [row[0].replace(".txt", ".jpg"), *row[1:3], f"{row[3]}\tand more"]

    report = score(release(tmp_path), tool(tmp_path, change))
    assert report.items[0].answer == lines()[0]["text"] + " and more"
    assert "existence.txt:1: a tab or a newline" in report.warnings[0]


def test_a_template_without_answers_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no answer in it"):
        score(release(tmp_path), tool(tmp_path, lambda row: row[:3]))


def test_one_file_of_the_tool(tmp_path):
    report = score(release(tmp_path), tool(tmp_path) / "color.txt")
    assert report.metrics["subtask.color"] == pytest.approx(GOLDEN["subtask.color"])
    assert report.metrics["cognition"] == 0
    assert "312 questions" not in report.warnings[-1] and "292 more questions without an answer" in report.warnings


def test_a_line_of_an_answer_is_a_space(tmp_path):
    rows = lines()
    rows[0]["text"], rows[1]["text"] = "Yes\nbecause", "\tno"
    report = score(release(tmp_path), write(tmp_path / "a.jsonl", rows))
    assert [(i.answer, i.parsed) for i in report.items[:2]] == [("Yes because", "yes"), (" no", "no")]


def test_a_prompt_that_is_missing_or_another_is_said(tmp_path):
    rows = lines()
    del rows[0]["prompt"]
    rows[1]["prompt"] = "Is this another question?"
    report = score(release(tmp_path), write(tmp_path / "a.jsonl", rows))
    assert report.n == len(rows)
    assert [i.score for i in report.items[:2]] == [0, 0]
    said = "\n".join(report.warnings)
    assert "a.jsonl:1: no prompt" in said
    assert "answer to existence/0000: Is this another question?" in said
    assert "question existence/0000: Is there a dog" in said


def test_a_truth_that_is_not_the_datas_is_said(tmp_path):
    report = score(release(tmp_path), tool(tmp_path, lambda row: [*row[:2], "Yes", row[3]]))
    assert scores(report.metrics) == GOLDEN
    assert "existence.txt:2: its ground truth is 'Yes', the data has another, which counts" in report.warnings


def test_layouts_ask_the_same(tmp_path):
    data = release(tmp_path)
    by_file = MME.questions(data / "MME_Benchmark_release_version")
    assert all(q.pictures[0].location == str(data / "MME_Benchmark_release_version" / q.id) for q in by_file)
    hub = tmp_path / "hub" / "data"
    hub.mkdir(parents=True)
    table = [
        {"question_id": i, "image": {"bytes": b"x", "path": None}, "question": q, "answer": truth, "category": s}
        for s in SUBTASKS
        for i, _, q, truth in questions(s)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), hub / "test-00000-of-00001.parquet")
    by_hub = MME.questions(hub.parent)
    rows = [{"question_id": r["question_id"], "image": r["question_id"], "text": r["prompt"]} for r in lines()]
    write(data / "llava_mme.jsonl", rows)
    by_llava = MME.questions(data)
    expected = [(r["question_id"], r["prompt"], 128) for r in lines()]
    for found in (by_file, by_hub, by_llava):
        assert [(q.id, q.text, q.max_new_tokens) for q in found] == expected
    assert by_llava[0].pictures == by_file[0].pictures
    report = score(hub.parent, write(tmp_path / "a.jsonl", lines()))
    assert scores(report.metrics) == GOLDEN


def test_a_part_of_the_subtasks_is_said(tmp_path):
    data = release(tmp_path) / "MME_Benchmark_release_version"
    for subtask in SUBTASKS[2:]:
        (data / subtask).rename(data / f"not {subtask}")
    report = score(data, write(tmp_path / "a.jsonl", lines()))
    assert report.metrics["perception"] == pytest.approx(GOLDEN["subtask.existence"] + GOLDEN["subtask.count"])
    assert "cognition" not in report.metrics
    assert any("the data has no position, color, posters" in w for w in report.warnings)


def test_no_data_says_what_is_looked_for(tmp_path):
    with pytest.raises(DataError, match="MME_Benchmark_release_version"):
        MME.questions(tmp_path)
