"""GQA by eval.py. The golden figures were printed for this set by eval/gqa/eval_gqa.py of BAAI-DCAI/Bunny 08273ac,
which is GQA's eval.py without what test-dev has no files for; LLaVA's lines went through convert_gqa_for_eval.py first
(haotian-liu/LLaVA c121f04)."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest
from answer_files import printed, write

from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark, score
from remora.evaluation.figures import value
from remora.evaluation.hub_tables import InParquet

GQA = benchmark("gqa")
GOLDS = ["yes", "no", "left", "dining table", "Straße", "t-shirt", "blue"]
SAID = [
    "{}", "{}.", "{}...", "{}. ", " {}", "{}!", "the {}", "{}\n", "{}, yes", "", ".", "{}.x", "{0}{0}", "Yes", "no..",
    "\u0130{}", "{}\u00a0", "{}..\n", "{}\u2024",
]  # fmt: skip
CASES = [str, str.upper, str.title]
OPERATIONS = [
    ("select", "car"), ("verify color", "blue (0)"), ("exist", "?"), ("query", "name"), ("choose name", "cat|dog"),
    ("relate", "person,holding,s (12)"), ("choose color", "red|blue"),
]  # fmt: skip
STRUCTURAL = ["query", "verify", "choose", "logical", "compare"]
SEMANTIC = ["attr", "obj", "rel", "cat", "global"]
GOLDEN = {
    "accuracy.binary": "13.70", "accuracy.open": "14.81", "accuracy": "13.92", "distribution": "0.57",
    "accuracy.structural.choose": "14.55", "accuracy.structural.compare": "25.45",
    "accuracy.structural.logical": "14.55", "accuracy.structural.query": "14.81", "accuracy.structural.verify":
    "0.00", "accuracy.semantic.attr": "12.73", "accuracy.semantic.cat": "10.91", "accuracy.semantic.global":
    "18.18", "accuracy.semantic.obj": "18.52", "accuracy.semantic.rel": "9.26", "accuracy.steps.0": "15.25",
    "accuracy.steps.1": "16.49", "accuracy.steps.2": "13.04", "accuracy.steps.3": "7.89", "accuracy.steps.4":
    "10.00", "accuracy.words.4": "14.71", "accuracy.words.5": "14.71", "accuracy.words.6": "11.59",
    "accuracy.words.7": "14.71",
}  # fmt: skip
GOLDEN_RAW = {"accuracy": "1.47", "accuracy.binary": "1.37", "accuracy.open": "1.85", "distribution": "0.90"}


def questions(count: int = 300) -> dict[str, dict]:
    """A set without random numbers: everything follows from the question's number."""
    return {
        str(900 + i): {
            "question": "word " * (3 + i % 4) + "?",
            "imageId": f"n{i // 3}",
            "isBalanced": i % 11 != 5,
            "answer": GOLDS[i % 7],
            "types": {"structural": STRUCTURAL[i % 5], "semantic": SEMANTIC[i // 3 % 5], "detailed": "d"},
            "groups": {"global": [None, "color", "place"][i % 3], "local": "l"},
            "semantic": [
                {"operation": o, "dependencies": [], "argument": a}
                for o, a in (OPERATIONS[(i + k) % 7] for k in range(1 + i % 4))
            ],
        }
        for i in range(count)
    }


def answers(asked: dict[str, dict]) -> dict[str, str]:
    return {i: SAID[(n * 7 + n // 19) % 19].format(CASES[n % 3](q["answer"])) for n, (i, q) in enumerate(asked.items())}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "gqa"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "testdev_balanced_questions.json").write_text(json.dumps(questions()))
    return folder


def lines(tmp_path, rows):
    return write(tmp_path / "answers.jsonl", rows)


def test_llavas_answers_are_converted_and_every_figure_is_the_one_of_eval_py(data, tmp_path):
    path = lines(tmp_path, [{"question_id": i, "text": t} for i, t in answers(questions()).items()])
    report = score(GQA, data, path)
    assert printed(report.metrics) == GOLDEN
    assert report.n == 273


def test_gqas_own_format_is_taken_as_it_is(data, tmp_path):
    path = tmp_path / "testdev_balanced_predictions.json"
    rows = [{"questionId": i, "prediction": t} for i, t in answers(questions()).items()]
    path.write_text(json.dumps(rows))
    report = score(GQA, data / "data" / "testdev_balanced_questions.json", path)
    assert {k: v for k, v in printed(report.metrics).items() if k in GOLDEN_RAW} == GOLDEN_RAW


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Blue.", "blue"),
        ("Blue..", "blue"),
        ("Blue. ", "blue. "),
        ("the Blue", "the blue"),
        ("A.B.", "a.b"),
        (".", ""),
        (".Blue.", ".blue"),
    ],
)
def test_what_is_read_of_llavas(data, tmp_path, text, read):
    item = score(GQA, data, lines(tmp_path, [{"question_id": "900", "text": text}])).items[0]
    assert (item.answer, item.parsed) == (text, read)


def test_the_last_answer_counts_and_what_is_missing_is_wrong_and_said(data, tmp_path):
    rows = [
        {"question_id": "900", "text": "no"},
        {"question_id": 900, "text": "Yes."},
        {"question_id": "x", "text": ""},
    ]
    report = score(GQA, data, lines(tmp_path, rows))
    assert [i.score for i in report.items] == [1.0] + [0.0] * 272
    said = "\n".join(report.warnings)
    assert "answers.jsonl:2: another answer to 900" in said
    assert "question 901 has no answer" in said
    assert "answer to x" in said
    assert "252 more questions without an answer" in said


def test_distribution_is_exactly_what_its_parts_sum_to_for_any_weight(data, tmp_path):
    """Twice of every question is twice the figure, which is why it can be a sum over questions at all."""
    path = lines(tmp_path, [{"question_id": i, "text": t} for i, t in answers(questions()).items()])
    items = score(GQA, data, path).items
    once, twice = value(GQA.figures(items)["distribution"]), value(GQA.figures([*items, *items])["distribution"])
    assert twice == pytest.approx(2 * once)


def test_answers_to_other_questions_are_an_error(data, tmp_path):
    with pytest.raises(DataError, match=r"no answer is to one of the 273 questions.*'1'.*'900'.*--data"):
        score(GQA, data, lines(tmp_path, [{"question_id": 1, "text": "yes"}]))


def test_three_layouts_ask_the_same(data, tmp_path):
    official = GQA.questions(data)
    llava = tmp_path / "llava"
    (llava / "data" / "images").mkdir(parents=True)
    balanced = {i: q for i, q in questions().items() if q["isBalanced"]}
    suffix = "\nAnswer the question using a single word or phrase."
    rows = [
        {"question_id": i, "image": f"{q['imageId']}.jpg", "text": q["question"] + suffix, "category": "default"}
        for i, q in balanced.items()
    ]
    (llava / "llava_gqa_testdev_balanced.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    hub = tmp_path / "hub"
    images = [{"id": f"n{i}", "image": {"bytes": b"x", "path": None}} for i in range(100)]
    for config, table in (
        ("testdev_balanced_instructions", [{"id": i} | q for i, q in balanced.items()]),
        ("testdev_balanced_images", images),
    ):
        (hub / config).mkdir(parents=True)
        path = hub / config / "testdev-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    asked = [(q.id, q.text, q.max_new_tokens) for q in official]
    assert asked[0] == ("900", "word word word ?" + suffix, 128)
    for other in (GQA.questions(llava), GQA.questions(hub)):
        assert [(q.id, q.text, q.max_new_tokens) for q in other] == asked
    assert GQA.questions(llava)[0].pictures[0].location == str(llava / "data" / "images" / "n0.jpg")
    shown = GQA.questions(hub)[-1].pictures[0]
    assert isinstance(shown, InParquet) and shown.row == 99
    path = lines(tmp_path, [{"question_id": i, "text": t} for i, t in answers(questions()).items()])
    assert printed(score(GQA, hub, path).metrics) == GOLDEN


def test_no_questions_says_what_is_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"testdev_balanced_questions\.json"):
        GQA.questions(tmp_path)
