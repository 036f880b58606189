"""Question and answer files that something broke: whatever is in them, scoring ends in figures or in one DataError."""

from __future__ import annotations

import json
import math
import random

import pytest

from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark
from remora.evaluation.figures import value

JUNK = [
    None, True, 0, -1, 3, 10**25, 1.5, float("nan"), float("inf"), "", " ", "A", "12", "9" * 5000, "\ud800", "a\nb",
    "\u2028", [], [[]], {}, {"a": {}}, [None], "yes", "test", "<image>", "Yes\tno", "../x", "image", "no", [1, {}],
]  # fmt: skip
BYTES = [b"\xff\xfe", b"\x00", b"\xef\xbb\xbf", b"\r\n", b"{", b"}", b"[", b'"', b"\n\n", b"[" * 3000, b"NaN", b"\t"]

TRIALS = 100


def turn(text):
    return {"from": "human", "value": text}


DATA = {
    "gqa": {
        "testdev_balanced_questions.json": {
            str(i): {
                "question": "Is it?", "imageId": f"n{i}", "answer": "yes", "isBalanced": True,
                "types": {"structural": "verify", "semantic": "attr"}, "groups": {"global": "g"},
                "semantic": [{"operation": "exist", "argument": "?"}],
            }
            for i in range(3)
        },
        "a_gqa_testdev_balanced.jsonl": [{"question_id": "1", "image": "n1.jpg", "text": "Is it?", "category": "x"}],
    },
    "pope": {
        f"coco_pope_{split}.json": [
            {"question_id": i, "image": f"{i}.jpg", "text": f"Is {split} {i}?", "label": "no"} for i in (1, 2)
        ]
        for split in ("random", "popular", "adversarial")
    },
    "scienceqa": {
        "problems.json": {
            str(i): {"question": "q", "choices": ["a", "b"], "answer": 0, "hint": "h", "image": "image.png",
                     "grade": "grade1", "subject": "natural science", "split": "test"}
            for i in range(3)
        },
        "pid_splits.json": {"test": ["0", "1", "2"]},
        "llava_test_CQM-A.json": [{"id": "0", "image": "0/image.png", "conversations": [turn("q"), turn("A")]}],
    },
    "mme": {"count/1.txt": "Is it? Please answer yes or no.\tYes\nOr? Please answer yes or no.\tNo\n", "1.jpg": ""},
    "seed": {
        "SEED-Bench.json": {
            "questions": [
                {"question_id": i, "question": "q", "answer": "A", "choice_a": "1", "choice_b": "2", "choice_c": "3",
                 "choice_d": "4", "data_type": "video", "data_id": "d", "question_type_id": 10}
                for i in ("1", "v2")
            ],
            "question_type": {"Action Recognition": 10},
        },
    },
}  # fmt: skip
ANSWERS = {
    "gqa": [{"question_id": "1", "text": "Yes."}, {"questionId": "2", "prediction": "yes"}],
    "pope": [
        {"question_id": f * 10_000_000 + i, "prompt": f"Is {split} {i}?", "text": "no"}
        for f, split in enumerate(("adversarial", "random", "popular"))
        for i in (1, 2)
    ],
    "scienceqa": [{"question_id": "1", "prompt": "<image>\nq", "text": "A"}, {"results": {"1": 1}, "outputs": {}}],
    "mme": [{"question_id": "count/1.jpg", "prompt": "Is it?", "text": "yes"}, {"question_id": "count/1.jpg"}],
    "seed": [{"question_id": 1, "text": "A"}, {"question_id": "v2", "prediction": "B"}],
}


def broken(value, rng, chance):
    """The value with some of its parts replaced by junk or left out."""
    if rng.random() < chance:
        return rng.choice(JUNK)
    if isinstance(value, dict):
        kept = {k: broken(v, rng, chance) for k, v in value.items() if rng.random() >= chance / 2}
        return kept | (
            {rng.choice(["text", "answer", "x", "prompt"]): rng.choice(JUNK)} if rng.random() < chance else {}
        )
    if isinstance(value, list):
        return [broken(v, rng, chance) for v in value if rng.random() >= chance / 2]
    return value


def content(value, rng, chance) -> bytes:
    if isinstance(value, str):
        whole = value.encode()
    else:
        value = broken(value, rng, chance)
        apart = isinstance(value, list) and rng.random() < 0.8
        whole = ("\n".join(json.dumps(v) for v in value) if apart else json.dumps(value)).encode()
    while rng.random() < chance * 2:
        at = rng.randrange(len(whole) + 1)
        whole = whole[:at] + rng.choice(BYTES) + whole[at + rng.choice([0, 0, 1, 9]) :]
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_only_data_errors(name, tmp_path):
    rng = random.Random(name)
    ended = {"figures": 0, "error": 0}
    for trial in range(TRIALS):
        chance = rng.choice([0.0, 0.02, 0.1])
        folder = tmp_path / str(trial)
        for file, known in DATA[name].items():
            path = folder / "data" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            # A file in three is as it was, or nothing would be seen of the answers.
            path.write_bytes(content(known, rng, rng.choice([0.0, chance, chance])))
        answers = folder / "answers.jsonl"
        answers.write_bytes(content(ANSWERS[name], rng, rng.choice([0.02, 0.1])))
        questions = folder / "questions.jsonl"
        asked = [{"question_id": 1, "image": "1.jpg", "text": "Is adversarial 1?", "category": "adversarial"}]
        questions.write_bytes(content(asked, rng, chance))
        given = questions if rng.random() < 0.3 else None
        for data in (folder / "data", folder / "data" / next(iter(DATA[name]))):
            try:
                graded = benchmark(name).grade(data, answers, "official", given, None)
                found = [value(f) for f in benchmark(name).figures(graded.items).values()]
                assert all(math.isfinite(f) for f in found)
                assert all("\n" not in line for line in graded.warnings)
                json.dumps([i.answer for i in graded.items])
                "".join(graded.warnings).encode()
                ended["figures"] += 1
            except DataError as e:
                assert "\n" not in str(e)
                ended["error"] += 1
            try:
                [str(q.pictures) for q in benchmark(name).questions(data)]
            except DataError as e:
                assert "\n" not in str(e)
    assert min(ended.values()) > 20, ended


def test_files_of_no_kind(tmp_path):
    for name in DATA:
        (tmp_path / "empty").write_bytes(b"")
        for data in (tmp_path, tmp_path / "empty", tmp_path / "not there"):
            with pytest.raises(DataError):
                benchmark(name).grade(data, tmp_path / "empty", "official", None, None)
            with pytest.raises(DataError):
                benchmark(name).questions(data)
