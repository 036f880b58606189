"""TextVQA by LLaVA's eval_textvqa.py: which answer is to which question, who counts; its prompts; broken files.

The golden scores, one character an item (X is 1, 9 is 0.9 …), were got from TextVQAAccuracyEvaluator of LLaVA c121f04.
"""

from __future__ import annotations

import json
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark, score
from remora.evaluation.benchmarks.textvqa import question_of
from support.nasty_answers import broken, said, ten, tried

TEXTVQA = benchmark("textvqa")
NAME = "TextVQA_0.5.1_val.json"
SCORES = (
    "99XX90XXX6960XXXXX60X000XXX0XXXX6X9XXX0XXX990XXXX60XXXXXX6XXXXXXXXXX0X699XXX0X9X"
    "09XXXXX9XX9X96XXXXXX0XXX96XX3XXX9XX09XXXXX09X099XX900X9XXXXXXX99X9XXXX"
)
END = "\nAnswer the question using a single word or phrase."
PROMPTS = [
    "{}\nReference OCR token: A, B" + END,
    "{}\nReference OCR token: " + END,
    "Reference OCR token: A, B\n{}" + END,
    "{}" + END,
    "OCR tokens: A, B. Question: {} Short answer:",
]


def question(i: int, people: list[str]) -> dict[str, object]:
    """Two questions a picture."""
    return {"question_id": 34602 + i, "image_id": f"{i // 2:016x}", "question": f"what is {i}?", "answers": people}


def line(i: int, answer: str, prompt: str = PROMPTS[0]) -> dict[str, object]:
    asked = f"What is {i}?"
    return {"question_id": f"{i // 2:016x}", "prompt": prompt.format(asked), "text": answer, "metadata": {}}


def write(folder, questions: list[dict[str, object]], lines: list[object]):
    (folder / NAME).write_text(json.dumps({"dataset_type": "val", "data": questions}))
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / NAME, folder / "answers.jsonl"


def people(first: str = "dog") -> list[str]:
    return [first] * 9 + ["cat"]


def test_every_item_scores_as_by_llavas_script(tmp_path):
    rng = Random(8)
    questions, answers = [], []
    for i in range(150):
        questions.append(question(i, ten(rng)))
        answers.append(said(rng, questions[-1]["answers"]))
    lines = [line(i, a, PROMPTS[i % len(PROMPTS)]) for i, a in enumerate(answers)]
    official = [{"question_id": 34602 + i, "answer": a} for i, a in enumerate(answers)]
    for given, protocol in ((lines, "llava"), (lines[::-1], "llava"), (official, "official")):
        report = score(TEXTVQA, *write(tmp_path, questions, given))
        assert report.protocol == protocol
        assert "".join("X" if i.score == 1 else str(round(10 * i.score)) for i in report.items) == SCORES
        assert report.metrics == pytest.approx({"accuracy": 82.8})
        assert not report.warnings


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [(p.format("What?"), "What?") for p in PROMPTS]
    + [
        ("What?", None),
        ("What?\nOCR: A\nAnswer", None),
        ("What?\nmore\nReference OCR token: A\nAnswer", None),
        ("OCR tokens: A. Question: What\nnow? Short answer:", "What\nnow?"),
        ("OCR tokens: A. What?\nAnswer", None),
        ("", None),
    ],
)
def test_the_question_is_recovered_from_the_prompts_that_the_script_knows(prompt, asked):
    assert question_of(prompt) == asked


def test_llavas_script_counts_lines_and_the_official_way_questions(tmp_path):
    questions = [question(i, people()) for i in range(4)]
    lines = [line(0, "cat"), line(0, "dog"), line(1, "dog"), line(9, "dog"), line(2, "dog") | {"prompt": "dog?"}]
    files = write(tmp_path, questions, lines)
    llava = score(TEXTVQA, *files)
    assert [(i.id, round(i.score, 9)) for i in llava.items] == [(34602, 0.3), (34602, 1), (34603, 1)]
    assert llava.metrics["accuracy"] == pytest.approx(230 / 3)
    for part in [
        "another answer to 34602; each",
        "34605 has no answer; left out of the mean",
        "jsonl:4: answer to 0000000000000004 ('What is 9?')",
    ]:
        assert [w for w in llava.warnings if part in w], part
    official = score(TEXTVQA, *files, "official")
    assert [i.score for i in official.items] == [1, 1, 0, 0]
    for part in ["this one counts", "question 34605 has no answer", "jsonl:5: answer to 0000000000000001 (no question"]:
        assert [w for w in official.warnings if part in w], part


def test_an_item_says_what_was_read_and_what_most_people_said(tmp_path):
    report = score(TEXTVQA, *write(tmp_path, [question(0, people("A dog"))], [line(0, "The Cat.")]))
    assert (report.items[0].parsed, report.items[0].answer, report.items[0].gold) == ("cat", "The Cat.", "dog")


def test_other_splits_and_other_numbers_of_people_are_refused(tmp_path):
    with pytest.raises(DataError, match="no answer is to one of the 1 questions"):
        score(TEXTVQA, *write(tmp_path, [question(0, people())], [line(5, "dog")]))
    with pytest.raises(DataError, match="34602 has 9 answers by people, not 10"):
        score(TEXTVQA, *write(tmp_path, [question(0, people()[1:])], [line(0, "dog")]))
    with pytest.raises(DataError, match="no people's answers"):
        score(TEXTVQA, *write(tmp_path, [question(0, [])], [line(0, "dog")]))
    with pytest.raises(DataError, match="repeats question_id 34602"):
        score(TEXTVQA, *write(tmp_path, [question(0, people())] * 2, [line(0, "dog")]))


def test_prompts_of_all_layouts_are_equal(tmp_path):
    prompt = "What is 3 usa?\nReference OCR token: MIA, NIKON," + END
    llava, official, hub = tmp_path / "llava", tmp_path / "official", tmp_path / "hub"
    for folder in (llava, official, hub):
        folder.mkdir()
    asked = {"question_id": "00ff", "image": "00ff.jpg", "text": prompt, "category": "default"}
    (llava / "llava_textvqa_val_v051_ocr.jsonl").write_text(json.dumps(asked))
    row = {"question_id": 34602, "image_id": "00ff", "question": "what is 3 USA?", "answers": people()}
    (official / NAME).write_text(json.dumps({"data": [row]}))
    with pytest.raises(DataError, match=r"no TextVQA_Rosetta_OCR_v0\.2_val\.json"):
        TEXTVQA.questions(official)
    for split, tokens in (("test", []), ("val", ["MIA", "NIKON,"])):
        seen = {"data": [{"image_id": "00ff", "ocr_tokens": tokens}]}
        (official / f"TextVQA_Rosetta_OCR_v0.2_{split}.json").write_text(json.dumps(seen))
    held = row | {"image": {"bytes": b"", "path": "x.jpg"}, "ocr_tokens": ["MIA", "NIKON,"]}
    pq.write_table(pa.Table.from_pylist([held]), hub / "validation-00000-of-00001.parquet")
    for folder in (llava, official, hub):
        [one] = TEXTVQA.questions(folder)
        assert (one.id, one.text, one.max_new_tokens) == ("00ff", prompt, 128)
    for folder in (llava, official):
        assert str(TEXTVQA.questions(folder)[0].pictures[0]) == str(folder / "train_images" / "00ff.jpg")
    # The line that such a question's answer is written as is joined by its prompt, in each layout.
    (tmp_path / "answers.jsonl").write_text(json.dumps({"question_id": "00ff", "prompt": prompt, "text": "dog"}))
    for folder in (official, hub):
        assert score(TEXTVQA, folder, tmp_path / "answers.jsonl").metrics["accuracy"] == 100


def test_no_tokens_leave_their_line_in_the_prompt(tmp_path):
    row = question(0, people()) | {"ocr_tokens": []}
    (tmp_path / NAME).write_text(json.dumps({"data": [row]}))
    assert TEXTVQA.questions(tmp_path)[0].text == "What is 0?\nReference OCR token: " + END


def test_the_submission_is_every_question_with_its_own_id(tmp_path):
    questions, answers = write(tmp_path, [question(i, []) for i in range(3)], [line(2, "A Dog."), line(0, "x")])
    [written] = TEXTVQA.submission(questions, answers, tmp_path / "out")
    given = {34602: "x", 34603: "", 34604: "A Dog."}
    assert json.loads(written.read_text()) == [{"question_id": q, "answer": a} for q, a in given.items()]


def test_broken_files_are_named_and_nothing_else(tmp_path):
    rng = Random(4)
    held = {"data": [question(i, ten(rng)) | {"ocr_tokens": ["A"]} for i in range(4)]}
    given = [line(0, "dog"), line(1, "dog"), line(2, "dog"), {"question_id": 34605, "answer": "cat"}]
    outcomes = set()
    for n in range(200):
        questions, answers = write(tmp_path, held["data"], given)
        if n % 2:
            questions.write_bytes(broken(rng, held, lines=False))
        answers.write_bytes(broken(rng, given, lines=True))
        outcomes.add(tried(lambda *files: json.dumps(score(TEXTVQA, *files).as_json()), questions, answers))
        outcomes.add(tried(TEXTVQA.questions, tmp_path))
    assert outcomes == {"read", "refused"}
