"""A benchmark: which picture each question is asked about, what an answer scores, and the baselines beside it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from remora import catalog
from remora.data.conversation import Sample
from remora.data.conversation import Turn as Message
from remora.errors import DataError
from remora.evaluation.baselines import QuestionOnly
from remora.evaluation.benchmark import as_json, examine, parse, question_only, score, summarise
from remora.evaluation.questions import Question, read_questions, shuffled_pictures
from remora.inference import Answer

NAME = "easy-vqa-val"
SHADES = [10, 60, 110, 160, 210]


def question(text="What?", answer="red", picture="a.png", **more) -> Question:
    return Question(0, Path(picture), text, answer, "", **more)


@pytest.fixture
def data(catalog_data):
    """Two questions about each of five grey pictures; their shade is the answer to the first, `no` to the second."""
    entry = catalog.benchmark(NAME)
    lines = []
    for i, shade in enumerate(SHADES):
        Image.new("RGB", (4, 4), (shade,) * 3).save(catalog_data / entry.images / f"q{i}.png")
        for j, (text, answer) in enumerate((("Which shade?", str(shade)), (f"Is it number {i}?", "no"))):
            asked = {
                "question_id": 2 * i + j,
                "image": f"q{i}.png",
                "text": text,
                "answer": answer,
                "category": f"c{j}",
            }
            lines.append(json.dumps(asked))
    (catalog_data / entry.questions).write_text("\n".join(lines) + "\n")
    return catalog_data


class Seer:
    """Answers with the shade that it sees."""

    def __init__(self):
        self.shown = []

    def answer(self, conversations, *, max_new_tokens):
        assert max_new_tokens == catalog.benchmark(NAME).max_new_tokens
        self.shown += [turn.images[0] for (turn,) in conversations]
        shades = [turn.images[0].getpixel((0, 0))[0] for (turn,) in conversations]
        return [Answer(f" {shade}. ", 1, 1, "stop") for shade in shades]


@pytest.mark.parametrize(
    ("said", "words"),
    [("Red.", "red"), (" a red CIRCLE!\n", "a red circle"), ('"no"', "no"), ("it's", "it's"), ("", ""), ("É", "é")],
)
def test_an_answer_is_read_as_its_words(said, words):
    assert parse(said) == words


def test_exact_match_is_of_all_the_words():
    assert score(question(answer="Red"), "red.") == 1.0
    assert score(question(answer="red"), "red circle") == 0.0
    assert score(question(answer="red"), "") == 0.0


def test_questions_are_read_in_file_order(data):
    questions = read_questions(NAME, data)
    assert [q.id for q in questions] == list(range(10))
    assert questions[3].answer == "no" and questions[3].category == "c1" and questions[3].choices == ()


def test_a_text_may_hold_any_character(data):
    file = data / catalog.benchmark(NAME).questions
    asked = {"question_id": 0, "image": "q0.png", "text": "a\u2028b\x85c", "answer": "é", "choices": ["é", "x"]}
    file.write_text(json.dumps(asked, ensure_ascii=False) + "\n")
    (only,) = read_questions(NAME, data)
    assert only.text == "a\u2028b\x85c" and only.choices == ("é", "x")


@pytest.mark.parametrize("line", ["{", "5", "{}", '{"question_id": 1}', ""])
def test_a_bad_line_is_named_by_number(line, data):
    file = data / catalog.benchmark(NAME).questions
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError) as caught:
        read_questions(NAME, data)
    assert str(caught.value).startswith(f"{file}:11: not a question") and "\n" not in str(caught.value)


def test_a_missing_or_empty_question_file_is_refused(data):
    file = data / catalog.benchmark(NAME).questions
    file.write_text("")
    with pytest.raises(DataError, match="not a question"):
        read_questions(NAME, data)
    file.unlink()
    with pytest.raises(DataError, match=r"missing question file: .*; next: remora data demo$"):
        read_questions(NAME, data)


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_shuffled_no_picture_keeps_its_own_and_each_is_used_once(count):
    questions = [question(picture=f"{i // 2}.png") for i in range(2 * count)]
    shuffled = shuffled_pictures(questions, 0)
    assert set(shuffled) == set(shuffled.values()) == {q.image for q in questions}
    assert all(own != other for own, other in shuffled.items())
    assert shuffled == shuffled_pictures(questions[::-1], 0)
    if count > 10:
        assert shuffled != shuffled_pictures(questions, 1)


def test_one_picture_cannot_be_shuffled():
    with pytest.raises(DataError, match="needs two"):
        shuffled_pictures([question(), question()], 0)


def test_a_model_that_sees_is_right_with_pictures_and_wrong_with_others(data):
    seer = Seer()
    seen, blind = examine(seer, NAME, data)
    assert len(seer.shown) == 20 and len({id(picture) for picture in seer.shown}) == 5  # each is read once
    assert [i.score for i in seen] == [1.0, 0.0] * 5
    assert [i.score for i in blind] == [0.0] * 10
    assert [i.parsed for i in seen[::2]] == [str(s) for s in SHADES]
    for item, other in zip(blind[::2], blind[1::2], strict=True):
        assert item.image == other.image and item.answer == other.answer  # both about the same other picture


@pytest.mark.parametrize("which", [0, 1], ids=["pictures", "blind"])
@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_shards_are_the_whole_benchmark_and_no_picture_is_split(shards, which, data):
    parts = [examine(Seer(), NAME, data, shard, shards)[which] for shard in range(shards)]
    whole = examine(Seer(), NAME, data)[which]
    assert sorted((i for p in parts for i in p), key=lambda i: i.id) == whole
    owners = Counter(image for p in parts for image in {i.image for i in p})
    assert set(owners.values()) == {1}


def test_a_summary_has_every_figure(data):
    seen, blind = examine(Seer(), NAME, data)
    figures = summarise(NAME, data, seen, blind)
    assert (figures.n, figures.accuracy, figures.blind) == (10, 0.5, 0.0)
    assert figures.by_category == {"c0": 1.0, "c1": 0.0}
    assert figures.ci[0] < 0.5 < figures.ci[1] and figures.blind_ci[0] == 0.0
    assert json.loads(json.dumps(as_json(figures)))["ci"] == list(figures.ci)
    with pytest.raises(AssertionError, match="9 and 10 answers to 10 questions"):
        summarise(NAME, data, seen[1:], blind)


ASKED = [
    ("Is it red?", "yes"), ("Is it red?", "no"), ("Is it red?", "no"),
    ("Cat or dog?", "dog"), ("Cat or dog?", "cat"),
    ("What?", "cat"), ("Which?", "cat"), ("Which one?", "fish"),
]  # fmt: skip


def brute_force(question: Question) -> str:
    """The same rule, by counting through all that was asked."""
    own = [a for q, a in ASKED if q == question.text]
    pool = own or [a for _, a in ASKED]
    candidates = set(own) or set(question.choices) or set(pool)
    return sorted(candidates, key=lambda a: (-pool.count(a), a))[0]


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("Is it red?", (), "no"),
        ("Is it red?", ("yes", "maybe"), "no"),  # asked word for word: the choices do not matter
        ("Cat or dog?", (), "cat"),  # a tie: the alphabet
        ("New?", ("fish", "dog"), "dog"),  # a tie again
        ("New?", ("fish", "bird"), "fish"),
        ("New?", ("zebra", "bird"), "bird"),
        ("New?", (), "cat"),
    ],
)
def test_question_only_is_what_counting_gives(text, choices, expected):
    samples = [
        Sample(str(i), (Message("user", q, 1), Message("assistant", a)), ()) for i, (q, a) in enumerate(ASKED[:6])
    ]
    turns = [m for q, a in ASKED[6:] for m in (Message("user", q), Message("assistant", a))]
    baseline = QuestionOnly([*samples, Sample("turns", tuple(turns), ())])
    asked = question(text, choices=choices)
    assert baseline.answer(asked) == brute_force(asked) == expected


def test_question_only_reads_the_benchmarks_prior(data):
    prior = data / catalog.dataset(catalog.benchmark(NAME).prior).path
    records = json.loads(prior.read_text())
    for record, answer in zip(records, ("60", "60", "no"), strict=True):
        record["conversations"][1]["value"] = answer
        record["conversations"][0]["value"] = "<image>\nWhich shade?"
    prior.write_text(json.dumps(records))
    # `60` to all: as the most frequent answer to the shade, and the most frequent of all
    assert question_only(NAME, data) == 1 / 10
