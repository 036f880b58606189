"""VQAv2 by vqaEval.py, with and without LLaVA's conversion; its prompts; its files, whole and broken.

The golden scores, one character an item (X is 1, 9 is 0.9 …), were got from vqaEval.py of GT-Vision-Lab/VQA a013f00
(print statements ported to Python 3) and EvalAIAnswerProcessor of LLaVA c121f04, over the same answers.
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

VQA = benchmark("vqav2")
KINDS = ["other", "number", "yes/no"]
TYPES = ["what is", "how many", "is the"]
OFFICIAL = (
    "X0609XXX93XXX6XX993X09990XXX93XX0X0X006X09XXXX06XXXXXXXXX0X9XXX0X009X009XXXXXX99"
    "X9XXX96606XXXXXXX9X6XX9XX09XX6X9XXXXXXXX0X60XX93X0X9XXXXXXXX00XXX0XXX6"
)
LLAVA = (
    "X0609XXX93XXX6XX093X09990XXX930X0X0X006X09X0XX06XXXXX0XXX0X9XXX0X0090009XX0X0X99"
    "090XX96600XXXX0XX9X6XX9XX09XX600XXXXXXXX0X60XX93X0X90XX0X0XXX00XXXXXX6"
)
NAME = "v2_mscoco_val2014_annotations.json"


def annotation(i: int, people: list[str]) -> dict[str, object]:
    answers = [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(people, 1)]
    kind = {"question_type": TYPES[i % 3], "answer_type": KINDS[i % 3]}
    return {"question_id": 1000 + i, "image_id": i // 3, "answers": answers, **kind}


@pytest.fixture
def nasty(tmp_path):
    """150 questions, LLaVA's lines and the official format of the same answers."""
    rng = Random(7)
    people, answers = [], []
    for _ in range(150):
        people.append(ten(rng))
        answers.append(said(rng, people[-1]))
    annotations = [annotation(i, p) for i, p in enumerate(people)]
    (tmp_path / NAME).write_text(json.dumps({"info": {}, "annotations": annotations}))
    lines = [{"question_id": 1000 + i, "prompt": "?", "text": a, "metadata": {}} for i, a in enumerate(answers)]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    official = [{"question_id": line["question_id"], "answer": line["text"]} for line in reversed(lines)]
    (tmp_path / "official.json").write_text(json.dumps(official))
    return tmp_path


def small(folder, people: list[list[str]], answers: list[object]):
    (folder / NAME).write_text(json.dumps({"annotations": [annotation(i, p) for i, p in enumerate(people)]}))
    (folder / "answers.json").write_text(json.dumps(answers))
    return folder, folder / "answers.json"


def digits(report) -> str:
    return "".join("X" if i.score == 1 else str(round(10 * i.score)) for i in report.items)


@pytest.mark.parametrize(
    ("file", "protocol", "used", "scores"),
    [
        ("official.json", None, "official", OFFICIAL),
        ("lines.jsonl", None, "llava", LLAVA),
        ("official.json", "llava", "llava", LLAVA),
        ("lines.jsonl", "official", "official", OFFICIAL),
        ("lines.jsonl", "auto", "llava", LLAVA),
    ],
)
def test_every_item_scores_as_by_the_official_script(nasty, file, protocol, used, scores):
    report = score(VQA, nasty, nasty / file, protocol)
    assert report.protocol == used
    assert digits(report) == scores
    assert [i.id for i in report.items] == [1000 + i for i in range(150)]


def test_figures_are_those_that_the_official_script_printed(nasty):
    report = score(VQA, nasty / NAME, nasty / "official.json")
    by_kind = {"other": 70.4, "number": 79.2, "yes/no": 83.6}
    expected = {"accuracy": 77.7333333333} | {f"accuracy.{k}": v for k, v in by_kind.items()}
    expected |= {f"accuracy.question_type.{t}": by_kind[k] for t, k in zip(TYPES, KINDS, strict=True)}
    assert report.metrics == pytest.approx(expected)


def test_the_conversion_is_said_unless_it_was_asked_for(nasty):
    lines = score(VQA, nasty, nasty / "lines.jsonl")
    assert [w for w in lines.warnings if "--protocol official" in w and "EvalAIAnswerProcessor" in w]
    official = score(VQA, nasty, nasty / "official.json")
    assert [w for w in official.warnings if "--protocol llava" in w]
    assert not score(VQA, nasty, nasty / "lines.jsonl", "llava").warnings


def test_nothing_is_normalised_where_all_people_say_the_same(tmp_path):
    folder, answers = small(
        tmp_path,
        [["Dog"] * 10, ["Dog"] * 9 + ["dog"], ["Dog"] * 10],
        [{"question_id": 1000 + i, "answer": a} for i, a in enumerate(["dog", "the dog.", " Dog\n"])],
    )
    report = score(VQA, folder, answers)
    assert [(i.parsed, i.score) for i in report.items] == [("dog", 0), ("dog", 1), ("Dog", 1)]
    assert report.items[0].gold == "Dog" and report.items[0].group == "0"


def test_what_is_missing_unknown_or_repeated_is_said(tmp_path):
    folder, answers = small(
        tmp_path,
        [["dog"] * 9 + ["cat"], ["a"] * 5 + ["the"] * 5],
        [
            {"question_id": 1000, "answer": "cat"},
            {"question_id": 7, "answer": "x"},
            {"question_id": 1000, "text": "dog"},
            {"question_id": 1001, "answer": None},
            5,
        ],
    )
    official = score(VQA, folder, answers, "official")
    assert [i.score for i in official.items] == [1, 0]
    for said_of in ["question 1001", "to 7", "json:3: another", "json:4: no text", "json:5: not an object"]:
        assert [w for w in official.warnings if said_of in w], said_of
    # What LLaVA hands in for a missing answer is empty, and so are articles once normalised.
    llava = score(VQA, folder, answers, "llava")
    assert [i.score for i in llava.items] == [1, 1]
    assert [w for w in llava.warnings if "scored as an empty one" in w]


def test_answers_of_another_split_are_refused(nasty):
    (nasty / "other.json").write_text(json.dumps([{"question_id": 5, "answer": "dog"}]))
    with pytest.raises(DataError, match=r"no answer is to one of the 150 questions.*'1000'"):
        score(VQA, nasty, nasty / "other.json")
    (nasty / "empty").mkdir()
    with pytest.raises(DataError, match=r"no v2_mscoco_val2014_annotations\.json or"):
        score(VQA, nasty / "empty", nasty / "other.json")


def test_a_questions_file_leads_to_the_annotations_next_to_it(nasty):
    questions = nasty / "v2_OpenEnded_mscoco_val2014_questions.json"
    questions.write_text(json.dumps({"questions": []}))
    assert digits(score(VQA, questions, nasty / "official.json")) == OFFICIAL


def test_test_questions_have_no_answers_to_score_by(tmp_path):
    (tmp_path / NAME).write_text(json.dumps({"annotations": [{"question_id": 1, "image_id": 2}]}))
    (tmp_path / "answers.json").write_text(json.dumps([{"question_id": 1, "answer": "dog"}]))
    with pytest.raises(DataError, match="question 1: no people's answers"):
        score(VQA, tmp_path, tmp_path / "answers.json")


def test_prompts_of_all_layouts_are_equal(tmp_path):
    prompt = "What is it? \nAnswer the question using a single word or phrase."
    llava, official, hub = tmp_path / "llava", tmp_path / "official", tmp_path / "hub" / "data"
    for folder in (llava, official, hub):
        folder.mkdir(parents=True)
    line = {"question_id": 5, "image": "COCO_test2015_000000000016.jpg", "text": prompt, "category": "default"}
    (llava / "llava_vqav2_mscoco_test-dev2015.jsonl").write_text(json.dumps(line))
    (llava / "llava_vqav2_mscoco_test2015.jsonl").write_text(json.dumps(line | {"question_id": 6}))
    question = {"question_id": 5, "image_id": 16, "question": "What is it? "}
    for split in ("test-dev2015", "test2015"):
        name = f"v2_OpenEnded_mscoco_{split}_questions.json"
        (official / name).write_text(json.dumps({"questions": [question]}))
    row = question | {"image": {"bytes": b"", "path": "x.jpg"}}
    pq.write_table(pa.Table.from_pylist([row]), hub / "testdev-00000-of-00001.parquet")
    for folder in (llava, official, tmp_path / "hub"):
        [asked] = VQA.questions(folder)
        assert (asked.id, asked.text, asked.max_new_tokens) == (5, prompt, 128)
    (tmp_path / "spoilt.jsonl").write_text(json.dumps(line | {"image": 5}))
    with pytest.raises(DataError, match="not a question"):
        VQA.questions(tmp_path / "spoilt.jsonl")
    picture = "test2015/COCO_test2015_000000000016.jpg"
    assert str(VQA.questions(llava)[0].pictures[0]) == str(llava / picture)
    assert str(VQA.questions(official)[0].pictures[0]) == str(official / picture)


def test_the_hubs_validation_scores_too(tmp_path):
    row = annotation(0, ["dog"] * 9 + ["cat"]) | {"question": "?", "image": {"bytes": b"", "path": "x.jpg"}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "validation-00000-of-00001.parquet")
    (tmp_path / "answers.jsonl").write_text('{"question_id": 1000, "text": "Dog."}')
    assert score(VQA, tmp_path, tmp_path / "answers.jsonl").metrics["accuracy.other"] == 100


def test_the_submission_is_all_of_test_as_llava_writes_it(tmp_path):
    skeleton = [{"question_id": i, "image": "x.jpg", "text": "?"} for i in (3, 1, 2)]
    (tmp_path / "llava_vqav2_mscoco_test2015.jsonl").write_text("\n".join(map(json.dumps, skeleton)))
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"question_id": 1, "text": "Two é dogs, cats?"}\n{"question_id": 3, "text": "don\'t"}')
    [written] = VQA.submission(tmp_path, answers, tmp_path / "out")
    expected = '[{"question_id": 3, "answer": "don\'t"}, {"question_id": 1, "answer": "2 \\u00e9 dogs cats"}, '
    assert written.read_text() == expected + '{"question_id": 2, "answer": ""}]'
    (tmp_path / "llava_vqav2_mscoco_test2015.jsonl").unlink()
    with pytest.raises(DataError, match="list of all questions of test2015"):
        VQA.submission(tmp_path, answers, tmp_path / "out")


def test_broken_files_are_named_and_nothing_else(tmp_path):
    rng = Random(3)
    data, answers = tmp_path / NAME, tmp_path / "answers.json"
    questions = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    held = {"annotations": [annotation(i, ten(rng)) for i in range(4)]}
    asked = {"questions": [{"question_id": 1000 + i, "image_id": 5, "question": "?"} for i in range(4)]}
    given = [{"question_id": 1000 + i, rng.choice(["text", "answer"]): "dog"} for i in range(4)]
    outcomes = set()
    for n in range(200):
        data.write_bytes(broken(rng, held, lines=False) if n % 2 else json.dumps(held).encode())
        answers.write_bytes(broken(rng, given, lines=rng.random() < 0.5))
        questions.write_bytes(broken(rng, asked, lines=False))
        outcomes.add(tried(lambda *files: json.dumps(score(VQA, *files).as_json()), tmp_path, answers))
        outcomes.add(tried(VQA.questions, tmp_path))
    assert outcomes == {"read", "refused"}
