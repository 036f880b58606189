"""VizWiz by its API's rules, with and without LLaVA's conversion; how answers find their pictures; answerability.

The golden scores, one character an item (X is 1, 9 is 0.9 …), were got from the VizWiz API's vqaEval.py as TRI-ML's
vlm-evaluation d9f5896 has it, with the typographic apostrophes that its copy had lost, from EvalAIAnswerProcessor of
LLaVA c121f04, and from scikit-learn 1.9.1, over the same answers.
"""

from __future__ import annotations

import json
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark, score
from support.nasty_answers import broken, said, ten, tried

VIZWIZ = benchmark("vizwiz")
OFFICIAL = (
    "X0XX00XXX9XXXXXX0X0X0XXXXXXXX6XXXXXX0XXX360XXX6X00XXXX0X9XX0XX903XXXXXXXXX06X30X"
    "XXX60XX0XXXXXX0X90X0XX390099XX0XX09XXXX9X0XX00X0XXXX0XXXX0X9X0600X0X99"
)
LLAVA = (
    "X0XX00XXX9XXXXXX0X0X0XXXXXXXX6XXXXXX0XXX360XXX6X00XXXX0X9XX0XX903XXXXXXXXX06X30X"
    "XXX60XX00XXXXX0X90X0XX390099XX0XX09XXXX9X0XX00X0XXXX0XXXX0X9X0600X0X99"
)
END = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
END += "\nAnswer the question using a single word or phrase."


def question(i: int, people: list[str], **more: object) -> dict[str, object]:
    answers = [{"answer": a, "answer_confidence": "yes"} for a in people]
    kinds = ["yes/no", "number", "other", "unanswerable"]
    named = {"image": f"VizWiz_val_{i:08d}.jpg", "question": f"What is {i}? "}
    return named | {"answers": answers, "answer_type": kinds[i % 4]} | more


def line(i: int, answer: str, asked: int | None = None) -> dict[str, object]:
    return {"question_id": i, "prompt": f"What is {i if asked is None else asked}? {END}", "text": answer}


def write(folder, questions: list[object], answers: list[object]):
    (folder / "val.json").write_text(json.dumps(questions))
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    return folder / "val.json", folder / "answers.jsonl"


@pytest.fixture
def nasty(tmp_path):
    rng = Random(9)
    questions, lines, official = [], [], []
    for i in range(150):
        people = ten(rng, "dog", "cat", "yes", "unanswerable", "dog cat", "0")
        answer, so = said(rng, people), rng.choice([0, 1])
        sure = rng.choice([0, 0.25, 0.5, 0.75, 1, rng.random()])
        questions.append(question(i, people, answerable=so))
        lines.append(line(i, answer))
        official.append({"image": f"VizWiz_val_{i:08d}.jpg", "answer": answer, "answerable": sure})
    write(tmp_path, questions, lines)
    (tmp_path / "official.json").write_text(json.dumps(official))
    return tmp_path


def digits(report) -> str:
    return "".join("X" if i.score == 1 else str(round(10 * i.score)) for i in report.items)


@pytest.mark.parametrize(
    ("file", "protocol", "used", "scores", "accuracy"),
    [
        ("official.json", None, "official", OFFICIAL, 73.0666666667),
        ("answers.jsonl", None, "llava", LLAVA, 72.4),
        ("official.json", "llava", "llava", LLAVA, 72.4),
        ("answers.jsonl", "official", "official", OFFICIAL, 73.0666666667),
    ],
)
def test_every_item_scores_as_by_the_official_script(nasty, file, protocol, used, scores, accuracy):
    report = score(VIZWIZ, nasty, nasty / file, protocol)
    assert (report.protocol, digits(report)) == (used, scores)
    assert report.metrics["accuracy"] == pytest.approx(accuracy)
    of_kind = [i.score for i in report.items if int(i.id[-12:-4]) % 4 == 3]
    assert report.metrics["accuracy.unanswerable"] == pytest.approx(100 * sum(of_kind) / len(of_kind))
    assert len(report.metrics) == (7 if file == "official.json" else 5)


def test_answerability_is_scikit_learns(nasty):
    metrics = score(VIZWIZ, nasty, nasty / "official.json").metrics
    assert metrics["answerability.average_precision"] == pytest.approx(54.8931756367)
    assert metrics["answerability.f1"] == pytest.approx(47.8260869565)


def test_answerability_needs_every_answer_to_say_it(tmp_path):
    questions = [question(i, ["dog"] * 10, answerable=1) for i in range(3)]
    sure = [0.5, 10**400, None]
    answers = [{"image": q["image"], "answer": "dog", "answerable": s} for q, s in zip(questions, sure, strict=True)]
    report = score(VIZWIZ, *write(tmp_path, questions, answers))
    assert set(report.metrics) == {"accuracy", "accuracy.yes/no", "accuracy.number", "accuracy.other"}
    assert len([w for w in report.warnings if "answerability is not scored" in w]) == 2


def test_the_answer_is_normalised_and_what_people_said_is_not(tmp_path):
    questions = [question(0, ["The dog"] * 10), question(1, ["dog"] * 10), question(2, ["don’t"] * 10)]
    answers = [
        {"image": q["image"], "answer": a} for q, a in zip(questions, ["The dog", "A Dog.", "dont"], strict=True)
    ]
    report = score(VIZWIZ, *write(tmp_path, questions, answers))
    assert [(i.parsed, i.score) for i in report.items] == [("dog", 0), ("dog", 1), ("don’t", 1)]


def test_an_index_is_a_place_a_number_or_an_id_of_llavas_file(tmp_path):
    def scores(lines, **more):
        report = score(VIZWIZ, *write(tmp_path, questions, lines), **more)
        [how] = [w.rpartition(": ")[2] for w in report.warnings if "matched with pictures" in w]
        return [i.score for i in report.items], how

    questions = [question(i, [str(i)] * 10) for i in (7, 0, 5)]
    by_place = [line(0, "7", 7), line(1, "0", 0), line(2, "5", 5)]
    assert scores(by_place) == ([1, 1, 1], "places in the data")
    by_number = [line(7, "7"), line(0, "0"), line(5, "5")]
    assert scores(by_number) == ([1, 1, 1], "numbers of the pictures")
    # Without prompts, the one that knows more of the indices.
    bare = [{"question_id": i, "text": str(i)} for i in (0, 5, 7)]
    assert scores(bare) == ([1, 1, 1], "numbers of the pictures")
    file = tmp_path / "asked.jsonl"
    asked = [{"question_id": i, "image": q["image"], "text": "?"} for i, q in enumerate(questions, 20)]
    file.write_text("\n".join(map(json.dumps, asked)))
    by_file = [line(20, "7", 7), line(21, "0", 0), line(22, "5", 5)]
    assert scores(by_file, questions=file) == ([1, 1, 1], "ids of asked.jsonl")
    file.rename(tmp_path / "llava_val.jsonl")
    report = score(VIZWIZ, tmp_path, write(tmp_path, questions, by_file)[1])
    assert [i.score for i in report.items] == [1, 1, 1]


def test_a_name_is_joined_as_it_is(tmp_path):
    questions = [question(i, [str(i)] * 10) for i in range(2)]
    answers = [
        line(1, "0") | {"question_id": "VizWiz_val_00000000"},
        {"question_id": questions[1]["image"], "text": "1"},
    ]
    report = score(VIZWIZ, *write(tmp_path, questions, answers))
    assert [i.score for i in report.items] == [1, 1]
    assert not [w for w in report.warnings if "matched with pictures" in w]


def test_prompts_of_other_questions_are_named_and_most_of_them_refused(tmp_path):
    questions = [question(i, [str(i)] * 10) for i in range(4)]
    report = score(VIZWIZ, *write(tmp_path, questions, [line(i, str(i)) for i in range(3)] + [line(3, "3", 9)]))
    assert [w for w in report.warnings if "jsonl:4: its prompt" in w]
    with pytest.raises(DataError, match=r"3 of 4 prompts ask other questions \(answers\.jsonl:2\).*--questions"):
        score(VIZWIZ, *write(tmp_path, questions, [line(0, "0")] + [line(i, "x", 9) for i in (1, 2, 3)]))


def test_what_is_missing_unknown_or_repeated_is_said(tmp_path):
    questions = [question(i, ["dog"] * 10) for i in range(2)]
    answers = [{"image": "VizWiz_val_00000000.jpg", "answer": a} for a in ("cat", "dog")]
    report = score(VIZWIZ, *write(tmp_path, questions, [*answers, {"image": "x.jpg", "answer": "dog"}]))
    assert [i.score for i in report.items] == [1, 0]
    for part in [
        "jsonl:2: another answer",
        "question VizWiz_val_00000001.jpg has no answer",
        "jsonl:3: answer to x.jpg",
    ]:
        assert [w for w in report.warnings if part in w], part
    with pytest.raises(DataError, match="no people's answers"):
        score(VIZWIZ, *write(tmp_path, [{"image": "a.jpg", "question": "?"}], [{"image": "a.jpg", "answer": "x"}]))
    with pytest.raises(DataError, match=r"no val\.json or"):
        (tmp_path / "val.json").rename(tmp_path / "test.json")
        score(VIZWIZ, tmp_path, tmp_path / "answers.jsonl")


def test_prompts_of_all_layouts_are_equal(tmp_path):
    llava, official, hub = tmp_path / "llava", tmp_path / "official" / "Annotations", tmp_path / "hub"
    for folder in (llava, official, hub, tmp_path / "official" / "val"):
        folder.mkdir(parents=True)
    asked = {"question_id": 0, "image": "VizWiz_test_00000003.jpg", "text": f"What is 3? {END}", "category": "default"}
    (llava / "llava_test.jsonl").write_text(json.dumps(asked))
    (official / "val.json").write_text(json.dumps([question(3, ["dog"] * 10)]))
    row = {"question_id": "VizWiz_val_00000003.jpg", "image": {"bytes": b"", "path": "x"}, "question": "What is 3? "}
    row |= {"answers": ["dog"] * 10, "category": "other"}
    pq.write_table(pa.Table.from_pylist([row]), hub / "val-00000-of-00001.parquet")
    for folder in (llava, official.parent, hub):
        [one] = VIZWIZ.questions(folder)
        assert (one.text, one.max_new_tokens) == (f"What is 3? {END}", 128)
    assert str(VIZWIZ.questions(llava)[0].pictures[0]) == str(llava / "test" / "VizWiz_test_00000003.jpg")
    shown = VIZWIZ.questions(official.parent)[0].pictures[0]
    assert str(shown) == str(tmp_path / "official" / "val" / "VizWiz_val_00000003.jpg")
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"question_id": "VizWiz_val_00000003.jpg", "text": "Dog"}')
    assert score(VIZWIZ, hub, answers).metrics == {"accuracy": 100, "accuracy.other": 100}


def test_the_submission_is_what_llava_writes(tmp_path):
    """Byte for byte what scripts/convert_vizwiz_for_submission.py makes of such lines; without a file, test.json's."""
    asked = [{"question_id": i, "image": f"VizWiz_test_{i:08d}.jpg", "text": "?"} for i in range(2)]
    (tmp_path / "llava_test.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (tmp_path / "answers.jsonl").write_text(
        '{"question_id": 1, "text": "Half, half?"}\n{"question_id": 0, "text": "Ünd."}'
    )
    expected = (
        '[{"image": "VizWiz_test_00000000.jpg", "answer": "\\u00fcnd"}, '
        '{"image": "VizWiz_test_00000001.jpg", "answer": "half half"}]'
    )
    [written] = VIZWIZ.submission(tmp_path, tmp_path / "answers.jsonl", tmp_path / "out")
    assert written.read_text() == expected
    (tmp_path / "llava_test.jsonl").unlink()
    (tmp_path / "test.json").write_text(json.dumps([{"image": a["image"], "question": "?"} for a in asked]))
    [written] = VIZWIZ.submission(tmp_path, tmp_path / "answers.jsonl", tmp_path / "out")
    assert written.read_text() == expected


@pytest.mark.slow
def test_broken_files_are_named_and_nothing_else(tmp_path):
    rng = Random(5)
    held = [question(i, ten(rng), answerable=1) for i in range(4)]
    outcomes = set()
    for n in range(200):
        given = [
            line(i, "dog") if n % 3 else {"image": held[i]["image"], "answer": "a", "answerable": 1} for i in range(4)
        ]
        questions, answers = write(tmp_path, held, given)
        if n % 2:
            questions.write_bytes(broken(rng, held, lines=False))
        answers.write_bytes(broken(rng, given, lines=True))
        outcomes.add(tried(lambda *files: json.dumps(score(VIZWIZ, *files).as_json()), questions, answers))
        outcomes.add(tried(VIZWIZ.questions, tmp_path))
    assert outcomes == {"read", "refused"}
