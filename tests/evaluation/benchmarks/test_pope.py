"""POPE. What each text was read as, and the figures of the set, were given by llava/eval/eval_pope.py of
haotian-liu/LLaVA c121f04, whose rules are those of evaluate.py of AoiDragon/POPE 08d957b."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from answer_files import write

from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark
from remora.evaluation.benchmarks.pope import yes_or_no
from remora.evaluation.figures import value

POPE = benchmark("pope")
SPLITS = ("adversarial", "random", "popular")
SUFFIX = "\nAnswer the question using a single word or phrase."
NO = [
    "no", "No", "not", "No.", "no,", "No, there is not", "There is not", "yes no", "yes, no", " no", "no,, ", "n,o",
    "no. Yes", "I know no", "no \n", "\u200b no", "N,o",
]  # fmt: skip
YES = [
    "", ".", " ", "yes", "Yes", "NO", "NOT", "Not", "nope", "None", "cannot", "isn't", "yes. no", ".no", "n.o", "no\n",
    "No\nbecause", "\tno", "(no)", '"no"', "no!", "no;", "no\u00a0", "\u00a0no", "I do. not", "Unknown", "да", "n o",
    "...no", "ＮＯ", "noo", "No:", "no-one",
]  # fmt: skip
GOLDEN = {
    "f1": 57.237989, "f1.random": 57.692308, "precision.random": 50.847458, "recall.random": 66.666667,
    "accuracy.random": 51.111111, "yes_ratio.random": 65.555556, "f1.popular": 58.252427, "precision.popular":
    51.724138, "recall.popular": 66.666667, "accuracy.popular": 52.222222, "yes_ratio.popular": 64.444444,
    "f1.adversarial": 55.769231, "precision.adversarial": 49.152542, "recall.adversarial": 64.444444,
    "accuracy.adversarial": 48.888889, "yes_ratio.adversarial": 65.555556,
}  # fmt: skip


@pytest.mark.parametrize(("said", "read"), [(t, "no") for t in NO] + [(t, "yes") for t in YES])
def test_what_is_read(said, read):
    assert yes_or_no(said) == read


def labelled(split: str, count: int = 90) -> list[dict]:
    """Half of the questions are about what is there, and are the same in every split."""
    rows = []
    for i in range(count):
        thing = f"thing {i // 2}" if i % 2 else f"{split} thing {i}"
        text = f"Is there a {thing} in the image?"
        image = f"COCO_val2014_{i // 6:012d}.jpg"
        rows.append({"question_id": i + 1, "image": image, "text": text, "label": "yes" if i % 2 else "no"})
    return rows


def said(split: str, place: int) -> str:
    texts = NO + YES
    return texts[(place * 11 + SPLITS.index(split) * 5 + place // 7) % len(texts)]


def score(data, answers, questions=None):
    """A report without intervals, which take long to compute."""
    graded = POPE.grade(data, answers, "official", questions, None)
    metrics = {k: value(f) for k, f in POPE.figures(graded.items).items()}
    return SimpleNamespace(metrics=metrics, items=graded.items, n=len(graded.items), warnings=graded.warnings)


def official(tmp_path, name="coco", **counts):
    for split in SPLITS:
        write(tmp_path / name / f"coco_pope_{split}.json", labelled(split, counts.get(split, 90)))
    return tmp_path / name


def asked(**counts) -> list[dict]:
    """LLaVA's question file."""
    found = []
    for first, split in enumerate(("adversarial", "random", "popular")):
        for q in labelled(split, counts.get(split, 90)):
            known = {"question_id": first * 10_000_000 + q["question_id"], "image": q["image"]}
            found.append(known | {"text": q["text"] + SUFFIX, "category": split})
    return found


def lines(**counts) -> list[dict]:
    """LLaVA's answers."""
    return [
        {
            "question_id": q["question_id"],
            "prompt": q["text"],
            "text": said(q["category"], q["question_id"] % 10_000_000),
        }
        for q in asked(**counts)
    ]


def rounded(metrics):
    return {k: round(v, 6) for k, v in metrics.items()}


@pytest.mark.parametrize("known", [True, False], ids=["questions", "alone"])
@pytest.mark.parametrize("ordered", [True, False], ids=["in order", "backwards"])
def test_llavas_answers(tmp_path, known, ordered):
    answers = write(tmp_path / "a.jsonl", lines() if ordered else lines()[::-1])
    questions = write(tmp_path / "q.jsonl", asked()) if known else None
    report = score(official(tmp_path), answers, questions=questions)
    assert rounded(report.metrics) == GOLDEN
    assert report.warnings == []
    assert {i.id: i.parsed for i in report.items} == {r["question_id"]: yes_or_no(r["text"]) for r in lines()}


def rows_of(split):
    return [{"question": q["text"].lower(), "answer": said(split, q["question_id"])} for q in labelled(split)]


def test_popes_own_answers_in_a_folder(tmp_path):
    for split in SPLITS:
        write(tmp_path / "answers" / f"mine-{split}.json", rows_of(split))
    report = score(official(tmp_path), tmp_path / "answers")
    assert rounded(report.metrics) == GOLDEN


def test_one_split_is_known_by_its_questions_and_the_others_are_left_out(tmp_path):
    report = score(official(tmp_path), write(tmp_path / "mine.json", rows_of("popular")))
    assert rounded(report.metrics) == {k: v for k, v in GOLDEN.items() if k.endswith(".popular")} | {
        "f1": GOLDEN["f1.popular"]
    }
    assert [w for w in report.warnings if "left out" in w and "f1 is the mean of the others" in w] == report.warnings
    assert len(report.warnings) == 2


def test_one_splits_file_is_data_too(tmp_path):
    data = official(tmp_path) / "coco_pope_random.json"
    report = score(data, write(tmp_path / "a.jsonl", lines()))
    assert report.metrics["f1.random"] == pytest.approx(GOLDEN["f1.random"])
    assert report.n == 90


def test_answers_to_another_version_are_not_scored_by_their_place(tmp_path):
    """The first positions match and the others do not: today's POPE against LLaVA's question file."""
    rows = lines()
    del rows[100]
    shifted = [r | {"question_id": 10_000_001 + i} for i, r in enumerate(rows[90:179])]
    answers = write(tmp_path / "a.jsonl", rows[:90] + shifted + rows[179:])
    with pytest.raises(DataError, match=r"version mismatch: .*89 random answers to 90 questions.*79 .*--questions"):
        score(official(tmp_path), answers)


def test_with_its_question_file_what_both_versions_hold_is_scored(tmp_path):
    kept = [q for i, q in enumerate(asked()) if i != 100]
    asked_then = [q | {"question_id": i + 1} for i, q in enumerate(kept)]
    by_old = {q["question_id"]: r["text"] for q, r in zip(asked(), lines(), strict=True)}
    rows = [
        {"question_id": new["question_id"], "prompt": new["text"], "text": by_old[old["question_id"]]}
        for new, old in zip(asked_then, kept, strict=True)
    ]
    questions = write(tmp_path / "q.jsonl", asked_then)
    report = score(official(tmp_path), write(tmp_path / "a.jsonl", rows), questions=questions)
    assert report.n == 269
    assert report.metrics["f1.popular"] == pytest.approx(GOLDEN["f1.popular"])
    (warning,) = report.warnings
    assert "version mismatch" in warning and "asks 89 random questions, the data holds 90" in warning


def test_without_prompts_the_last_question_must_have_been_answered(tmp_path):
    rows = [{k: r[k] for k in ("question_id", "text")} for r in lines()]
    data = official(tmp_path)
    report = score(data, write(tmp_path / "a.jsonl", rows))
    assert rounded(report.metrics) == GOLDEN
    assert len(report.warnings) == 3
    with pytest.raises(DataError, match=r"version mismatch.*89 popular answers to 90 questions, and no prompts"):
        score(data, write(tmp_path / "b.jsonl", rows[:-1]))


def test_what_is_not_answered_is_answered_wrongly(tmp_path):
    rows = [r for r in lines() if r["question_id"] not in (1, 2)]
    report = score(official(tmp_path), write(tmp_path / "a.jsonl", rows))
    wrong = [{"question_id": i, "prompt": asked()[i - 1]["text"], "text": t} for i, t in ((1, "yes"), (2, "no"))]
    other = score(official(tmp_path), write(tmp_path / "b.jsonl", rows + wrong))
    assert report.metrics == other.metrics
    assert [i.parsed for i in report.items[:2]] == ["", ""]
    assert len(report.warnings) == 2 and not other.warnings


def test_layouts_ask_the_same(tmp_path):
    by_file = POPE.questions(official(tmp_path))
    llava = tmp_path / "llava"
    write(llava / "llava_pope_test.jsonl", asked())
    (llava / "val2014").mkdir()
    by_llava = POPE.questions(llava)
    hub = tmp_path / "hub" / "data"
    hub.mkdir(parents=True)
    columns = [
        {
            "id": str(n),
            "question_id": str(q["question_id"]),
            "question": q["text"],
            "answer": q["label"],
            "image_source": q["image"][:-4],
            "image": {"bytes": b"x", "path": None},
            "category": split,
        }
        for n, (split, q) in enumerate((s, q) for s in SPLITS for q in labelled(s))
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(columns), hub / "test-00000-of-00001.parquet")
    by_hub = POPE.questions(hub.parent)
    expected = [(q["question_id"], q["text"], 128) for q in asked()]
    for found in (by_file, by_llava, by_hub):
        assert [(q.id, q.text, q.max_new_tokens) for q in found] == expected
    assert by_llava[0].pictures[0].location == str(llava / "val2014" / "COCO_val2014_000000000000.jpg")
    assert by_hub[91].pictures[0].row == 91
    report = score(hub.parent, write(tmp_path / "a.jsonl", lines()))
    assert rounded(report.metrics) == GOLDEN


def test_no_data_says_what_is_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"no coco_pope_random\.json, coco_pope_popular\.json"):
        POPE.questions(tmp_path)
